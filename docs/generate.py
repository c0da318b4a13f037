"""Generator of the documentation pages that follow from the source: `python docs/generate.py`.

A test compares the pages with what this script makes.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BAR = "\\|"  # a bar inside a cell of a table

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


def configuration_keys(source: str) -> str:
    """Returns the tables of all configuration keys.

    Args:
        source: Text of `jaxdp/defaults.py`, where each key has a line `config.KEY = DEFAULT  # MEANING`.
    """
    lines: list[str] = []
    note, in_table = "", False
    for line in map(str.strip, source.splitlines()):
        if made := re.fullmatch(r"config\.(\w+) = ConfigDict\(\)", line):
            in_table = False
            lines += ["", f"### {made[1]}"]
        elif line.startswith("# "):
            note, in_table = line[2:], False
        elif key := re.fullmatch(r"config\.([\w.]+) = (.+?)  # (.+)", line):
            if not in_table:
                lines += [
                    "",
                    *([note, ""] if note else []),
                    "| key | type | default | meaning |",
                    "| --- | --- | --- | --- |",
                ]
                note, in_table = "", True
            lines.append(key_row(*key.groups()))
    return "\n".join(lines).strip() + "\n"


def key_row(key: str, value: str, meaning: str) -> str:
    """Returns the row of one configuration key."""
    optional = re.fullmatch(r"placeholder\((\w+)\)", value)
    kind = optional[1].replace("object", "int, str") if optional else type(ast.literal_eval(value)).__name__
    default = "*unset*" if optional else f"`{value}`"
    return f"| `{key}` | {kind} | {default} | {meaning.replace('|', BAR)} |"


def between(page: str, name: str, text: str) -> str:
    """Returns a page with the text between its two marks of this name replaced."""
    begin, end = f"<!-- {name}: made by docs/generate.py -->", f"<!-- end of the {name} -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text}\n{end}{rest.partition(end)[2]}"


def architecture(page: str) -> str:
    """Returns `docs/architecture.md` with a new map."""
    return between(page, "map", package_map())


def configuration(page: str) -> str:
    """Returns `docs/configuration.md` with new tables of keys."""
    return between(page, "keys", configuration_keys((ROOT / "jaxdp" / "defaults.py").read_text()))


PAGES = {"architecture.md": architecture, "configuration.md": configuration}
"""Page -> function from its present text to its text."""


def main() -> None:
    """Writes all generated pages."""
    for name, make in PAGES.items():
        path = DOCS / name
        path.write_text(make(path.read_text()))


if __name__ == "__main__":
    main()
