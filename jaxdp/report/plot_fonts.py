"""Fonts of plots for scripts that the default font lacks."""

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator

from jaxdp.report.terminal import print_status

DEFAULT = "DejaVu Sans"
"""Font that Matplotlib includes."""

FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR",
    "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC",
    "Hiragino Sans", "Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Thai", "Noto Sans Hebrew", "Noto Sans Arabic", "Noto Sans Symbols", "Arial Unicode MS",
)  # fmt: skip
"""Font families for other scripts in order of preference; installed ones are used."""


@contextlib.contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Sets the fonts of figures that are created and saved in the context.

    A character that no installed font has is rendered as a box. One message names such characters and replaces
    Matplotlib's warning for each of them.

    Args:
        texts: Names from the data that the figure shows.
    """
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = {font.name: font.fname for font in fontManager.ttflist}
    families = [DEFAULT, *(name for name in FALLBACKS if name in installed)]
    missing = missing_characters(texts, [installed[name] for name in families if name in installed])
    if missing:
        shown = ", ".join(f"{letter} (U+{ord(letter):04X})" for letter in missing[:3])
        print_status(
            f"no installed font has {shown}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}: rendered as boxes; install Noto Sans CJK or another font that has them"
        )
    with matplotlib.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        yield


def missing_characters(texts: Iterable[str], files: Iterable[str]) -> list[str]:
    """Returns the characters that no font has, in order of their code points.

    Args:
        texts: Texts to render.
        files: Font files.
    """
    from matplotlib.ft2font import FT2Font

    missing = {letter for text in texts for letter in text if letter.isprintable() and not letter.isspace()}
    for file in files:
        if any(ord(letter) > 0x7F for letter in missing):
            try:
                known = FT2Font(file).get_charmap()
            except (OSError, RuntimeError) as error:
                logging.getLogger("jaxdp").info("the font %s cannot be read: %s", file, error)
                continue
            missing = {letter for letter in missing if ord(letter) not in known}
    return sorted(letter for letter in missing if ord(letter) > 0x7F)
