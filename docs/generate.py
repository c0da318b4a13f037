"""Generator of the documentation pages that follow from the source: `python docs/generate.py`.

A test compares the pages with what this script makes.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MAP_BEGIN, MAP_END = "<!-- map: made by docs/generate.py -->", "<!-- end of the map -->"

sys.path.insert(0, str(ROOT / "tests"))
from floors import FLOORS  # noqa: E402


def first_sentence(path: Path) -> str:
    """Returns the first sentence of a module's docstring, without its period."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).split(". ")[0].rstrip(".")


def package_map() -> str:
    """Returns the map of the package: floors from the top down, each with its parts and files."""
    lines = []
    for number, parts in reversed(list(enumerate(FLOORS))):
        lines += ["", f"### Floor {number}", "", "| file | purpose |", "| --- | --- |"]
        for part in sorted(parts):
            file, folder = ROOT / "jaxdp" / f"{part}.py", ROOT / "jaxdp" / part
            if file.is_file() and not part.startswith("__"):
                lines.append(f"| `{part}.py` | {first_sentence(file)} |")
            elif folder.is_dir():
                lines.append(f"| **`{part}/`** | **{first_sentence(folder / '__init__.py')}** |")
                lines += [
                    f"| `{path.relative_to(ROOT / 'jaxdp')}` | {first_sentence(path)} |"
                    for path in sorted(folder.rglob("*.py"))
                    if path.name != "__init__.py"
                ]
    return "\n".join(lines).replace("\\|", "|").strip() + "\n"


def architecture(page: str) -> str:
    """Returns `docs/architecture.md` with its map made anew."""
    before, _, rest = page.partition(MAP_BEGIN)
    return f"{before}{MAP_BEGIN}\n\n{package_map()}\n{MAP_END}{rest.partition(MAP_END)[2]}"


PAGES = {"architecture.md": architecture}
"""Page -> function from its present text to its text."""


def main() -> None:
    for name, make in PAGES.items():
        path = DOCS / name
        path.write_text(make(path.read_text()))


if __name__ == "__main__":
    main()
