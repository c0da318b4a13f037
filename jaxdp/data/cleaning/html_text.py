"""The text of a page of HTML."""

from html.parser import HTMLParser

DROPPED = {"script", "style"}

BLOCKS = frozenset(
    ["address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "details", "dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "legend", "li", "main", "nav", "ol", "optgroup", "option", "p", "pre", "section", "select", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "title", "tr", "ul"]
)
"""Elements that stand apart from the text around them, as a browser shows them."""


def html_text(text: str) -> str:
    """A text without tags, comments and declarations, and with characters for entities.

    What stands in `script` and `style` is dropped. Where the tag of a block stood,
    is a line end (one, however many such tags follow each other), so that words of
    two paragraphs do not run together. A text without `<` and `&` is left as it is.

    How broken markup is read (an unclosed tag, a lone `<`) is up to Python's
    `html.parser`, and differs between its versions.
    """
    if "<" not in text and "&" not in text:
        return text
    parser = _TextParser()
    # In HTML `<![` begins a comment like any unknown `<!`; Python before 3.14 fails at some of them.
    parser.feed(text.replace("<![", "<!-["))
    parser.close()
    return "".join(parser.pieces)


class _TextParser(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._dropped: str | None = None  # the element whose content is dropped
        self._ends_line = True  # what was kept so far

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
