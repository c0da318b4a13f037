"""Preparation gives the same examples from any number of workers, and errors name the record."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.preparing import workers
from jaxdp.data.preparing.examples import Examples, ExamplesWriter
from jaxdp.data.preparing.scan import Excerpt
from jaxdp.data.preparing.workers import Work, prepare_examples
from jaxdp.data.reading.records import Record
from jaxdp.data.tokenizers import ByteTokenizer, CharTokenizer
from jaxdp.errors import UserError
from jaxdp.tasks import CausalLM
from jaxdp.tasks.task import TaskInputs

TEXTS = [f"Text  number {number}\n" * (number % 7) for number in range(200)]


def excerpts():
    for number, text in enumerate(TEXTS):
        yield Excerpt(Record({"body": text}, f"file, line {number + 1}", continues=number == 3))
    yield Excerpt(Record({"body": "0123456789"}, "file, line 201"), 2, 5)


def work(tokenizer, cleaning=()):
    task = CausalLM(TaskInputs(length=8))
    return Work(Cleaner(cleaning, ("body",)).changes(), {"text": "body"}, task.prepare, tokenizer)


def prepared(directory, num_workers, tokenizer=None, cleaning=()):
    directory.mkdir()
    tokenizer = tokenizer or ByteTokenizer()
    writer = ExamplesWriter(directory, np.uint16, {"tokens": tokenizer.eos_id}, 1 << 10)
    done = []
    prepare_examples(excerpts(), work(tokenizer, cleaning), writer, num_workers=num_workers, advance=done.append)
    writer.close()
    assert sum(done) == sum(map(len, TEXTS)) + 10
    return Examples(directory)


def test_examples_are_the_cleaned_texts_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "CHUNK_CHARS", 500)
    examples = prepared(tmp_path / "here", 0, cleaning=("whitespace", "lowercase"))
    values, lengths = examples.ragged("tokens").take(np.arange(examples.num_examples))
    texts = [bytes(piece[:-1].astype(np.uint8)).decode() for piece in np.split(values, np.cumsum(lengths)[:-1])]
    cleaned = [text.replace("  ", " ").lower() for text in TEXTS]
    assert texts == [*cleaned[:3], cleaned[3] + cleaned[4], *cleaned[5:], "234"]
    assert (values[np.cumsum(lengths) - 1] == 256).all()


def test_workers_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "CHUNK_CHARS", 500)
    for num_workers in (0, 2):
        prepared(tmp_path / str(num_workers), num_workers)
    files = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert len(files) > 3
    for name in files:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_names_the_record(tmp_path, num_workers):
    with pytest.raises(UserError, match=r"file, line 2: .*'T'"):
        prepared(tmp_path / "out", num_workers, CharTokenizer("abc "))


PARENT = """
import os, sys, time
import multiprocessing
from jaxdp.data.preparing.workers import _mapped
from test_workers import Slow

if __name__ == "__main__":
    chunks = ((1, [number]) for number in range(1000))
    for _ in _mapped(Slow(), chunks, 1):
        print(multiprocessing.active_children()[0].pid, flush=True)
"""


class Slow:
    """Work that is never done in the time of a test."""

    def __call__(self, numbers):
        time.sleep(0.05)
        return numbers


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks into /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _is_running(worker):
        time.sleep(0.05)
    assert not _is_running(worker)


def _is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
