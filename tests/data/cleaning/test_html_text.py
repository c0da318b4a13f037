import random

import pytest

from jaxdp.data.cleaning.html_text import html_text


@pytest.mark.parametrize(
    "markup, text",
    [
        ("plain 1 > 0 text", "plain 1 > 0 text"),
        ("<p>a &amp; b</p>\n<p>c<b>d</b></p>", "a & b\n\ncd\n"),
        ("<p>a</p><p>b</p>", "a\nb\n"),
        ("a<br><br/>b", "a\nb"),
        ("<ul><li>1<li>2</ul>3", "1\n2\n3"),
        ("<td>1</td><td>2</td>", "1\n2\n"),
        ("&lt;b&gt; &#228;&#xe4; &nbsp;&hellip; &amp;amp; &unknown;", "<b> ää \xa0… &amp; &unknown;"),
        ("a<script>if (a < b) { '</p>' }</script>b<style>p > a {}</style>c", "abc"),
        ("a<SCRIPT src='x'>y</Script >b", "ab"),
        ("<script/>a", "a"),
        ("<!DOCTYPE html><!-- a <b> -->c<?xml version='1'?>d", "cd"),
        ("a<![CDATA[b]]>c<![if !IE]>d<![endif]>e", "acde"),
        ("x < y & z <3", "x < y & z <3"),
        ('<a href="<p>">b</a>', "b"),
        ("", ""),
    ],
)
def test_text_of_markup(markup, text):
    assert html_text(markup) == text


def test_no_markup_makes_the_parser_fail():
    rng = random.Random(0)
    pieces = [*"<<![]>/?a&#x1; \n'\"=é", "--", "script", "CDATA"]
    for _ in range(20_000):
        html_text("".join(rng.choices(pieces, k=rng.randint(1, 14))))
