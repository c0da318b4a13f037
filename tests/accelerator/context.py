"""Context of a section: its size, deadline and output directory, and the rows of results shared by all sections."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

ROWS_FILE = "rows.jsonl"


@dataclasses.dataclass(frozen=True)
class Context:
    """Context of one section.

    Attributes:
        section: Name of the section.
        size: "full", "tiny", or "auto" before the platform is known.
        out: Output directory.
        scratch: Temporary directory shared by the sections: token file and compilation cache.
        deadline: Unix time at which the section is stopped.
    """

    section: str
    size: str
    out: Path
    scratch: Path
    deadline: float

    @property
    def remaining_secs(self) -> float:
        """Seconds until the section is stopped."""
        return self.deadline - time.time()

    def report(self, name: str, result: str, note: str = "", /, **data: Any) -> None:
        """Records a result and prints it.

        Args:
            name: Name of the measurement, e.g. "GPT-2 124M, 32 rows".
            result: Result for the table, e.g. "612,000 tokens/s".
            note: Further numbers and conditions for the table.
            **data: The numbers behind the result, for the JSON file and for later sections.
        """
        row = {"section": self.section, "name": name, "result": result, "note": note, "data": data}
        append_row(self.out, row | {"time": round(time.time(), 1)})

    def progress(self, what: str) -> None:
        """Prints what the section does next; if it is stopped, its row has the last of these with its time."""
        self._progress_file.write_text(json.dumps({"what": what, "time": time.time()}), encoding="utf-8")
        print(f"[{self.section}] {what} ...", flush=True)

    def last_progress(self) -> str:
        """Returns what the section does, for the end of a sentence; empty if it has not said."""
        if not self._progress_file.exists():
            return ""
        last = json.loads(self._progress_file.read_text(encoding="utf-8"))
        return f": {last['what']}, for {time.time() - last['time']:.0f} s"

    @property
    def _progress_file(self) -> Path:
        return self.scratch / f"{self.section.replace(' ', '_')}.progress"

    def earlier(self, section: str) -> list[dict[str, Any]]:
        """Returns the rows that a section has recorded so far."""
        return [row for row in read_rows(self.out) if row["section"] == section]

    def device(self) -> dict[str, Any]:
        """Returns the data of the device row of section `environment`; empty if that section failed."""
        return next((row["data"] for row in self.earlier("environment") if row["name"] == "device"), {})


def append_row(out: Path, row: dict[str, Any]) -> None:
    """Appends a row to the rows of the check, and prints it at once."""
    line = json.dumps(row, default=str)
    with open(out / ROWS_FILE, "a", encoding="utf-8") as file:  # one write, so that parallel sections do not mix
        file.write(line + "\n")
    note = f" ({row['note']})" if row["note"] else ""
    print(f"[{row['section']}] {row['name']}: {row['result']}{note}", flush=True)


def write_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    """Replaces the rows of the check."""
    (out / ROWS_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Returns all rows recorded so far, in a report directory or a file of rows."""
    path = out / ROWS_FILE if out.is_dir() else out
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
