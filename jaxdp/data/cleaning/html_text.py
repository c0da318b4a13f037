"""Text of an HTML page."""

from html.parser import HTMLParser

DROPPED = {"script", "style"}

BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "br",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "head",
        "header",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "nav",
        "ol",
        "optgroup",
        "option",
        "p",
        "pre",
        "section",
        "select",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "title",
        "tr",
        "ul",
    ]
)
"""Block elements, which a browser separates from the text around them."""


def html_text(text: str) -> str:
    """Removes tags, comments and declarations, and decodes entities.

    The content of `script` and `style` is dropped. The tags of block elements become a line end (one for several tags in a
    row), so that words of two paragraphs are not joined. A text without `<` and `&` is unchanged.

    Broken markup (an unclosed tag, a lone `<`) is read as Python's `html.parser` does, which differs between versions.
    """
    if "<" not in text and "&" not in text:
        return text
    parser = _TextParser()
    # In HTML `<![` begins a comment like any unknown `<!`; Python before 3.14 fails on some of them.
    parser.feed(text.replace("<![", "<!-["))
    parser.close()
    return "".join(parser.pieces)


class _TextParser(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._dropped: str | None = None  # element whose content is being dropped
        self._ends_line = True  # whether the text kept so far ends a line

    def handle_starttag(self, tag, attrs):
        if tag in DROPPED:
            self._dropped = tag
        self._break_at(tag)

    def handle_endtag(self, tag):
        if tag == self._dropped:
            self._dropped = None
        self._break_at(tag)

    def handle_data(self, data):
        if self._dropped is None:
            self.pieces.append(data)
            self._ends_line = data.endswith("\n")

    def _break_at(self, tag: str) -> None:
        if tag in BLOCKS and not self._ends_line:
            self.pieces.append("\n")
            self._ends_line = True
