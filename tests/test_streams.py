"""Standard streams: a terminal that goes away takes nothing with it."""

import errno
import io
import json
import logging
import os
import subprocess
import sys

import pytest

from jaxdp.report import terminal
from jaxdp.streams import ResultStream, SurvivingStream


class Broken(io.StringIO):
    """A terminal that is gone."""

    encoding = "utf-8"

    def __init__(self, error):
        super().__init__()
        self.error, self.num_calls = error, 0

    def write(self, text):
        self.num_calls += 1
        raise self.error

    def isatty(self):
        return True


GONE = [
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    ValueError("I/O operation on closed file"),
]


@pytest.mark.parametrize("error", GONE, ids=repr)
def test_a_stream_that_fails_is_given_up_once_and_logged(error, monkeypatch):
    broken = Broken(error)
    logged = []
    monkeypatch.setattr(logging.getLogger("jaxdp"), "info", lambda text, *values: logged.append(text % values))
    stream = SurvivingStream(lambda: broken)
    assert stream.write("one") == 3 and stream.write("two\n") == 4
    stream.flush()
    assert broken.num_calls == 1
    assert logged == [
        f"the terminal can no longer be written ({error.strerror if isinstance(error, OSError) else error}); messages go to the log alone"
    ]


@pytest.mark.parametrize("error", GONE, ids=repr)
def test_sentences_tables_and_the_live_line_survive(error, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken(error))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(
        terminal, "console", terminal.Console(file=SurvivingStream(lambda: sys.stderr), force_terminal=True)
    )
    values = {
        "train/loss": 1.0,
        "train/learning_rate": 1.0,
        "train/grad_norm": 1.0,
        "perf/tokens_per_sec": 1.0,
        "perf/data_wait": 0.0,
    }
    with terminal.ProgressLine(0, 3) as line, terminal.progress("reading", 10) as advance:
        for step in range(1, 4):
            line.write(step, values)
            advance(3)
        line.write(3, {"eval/loss": 1.0})
    terminal.print_status("a sentence")
    terminal.show_table([("a", "b")])
    terminal.show_cut([("a", "b")])


def test_without_a_stream_nothing_is_printed_and_another_stream_is_used_again():
    streams = [None, io.StringIO()]
    stream = SurvivingStream(lambda: streams[0])
    assert stream.write("a") == 1 and not stream.isatty()
    stream.flush()
    streams[0] = streams[1]
    stream.write("b")
    assert streams[1].getvalue() == "b"


def test_letters_that_the_encoding_lacks_are_escaped():
    content = io.BytesIO()
    text = io.TextIOWrapper(content, "ascii", write_through=True)
    SurvivingStream(lambda: text).write("caf\u00e9 \u4e2d")
    assert content.getvalue() == b"caf\\xe9 \\u4e2d"


SECURE = "import os, sys\nfrom jaxdp import streams\nstreams.secure()\n"


def test_closed_descriptors_are_taken_so_that_no_file_gets_them():
    code = SECURE + (
        "opened = os.open(sys.argv[1], os.O_RDONLY)\nassert opened > 2, opened\n"
        "print('out'); print('err', file=sys.stderr); sys.stdout.flush(); sys.stderr.flush()\n"
        "assert sys.stdin.read() == ''\nassert [os.get_inheritable(n) for n in (0, 1, 2)] == [True] * 3\nos._exit(7)"
    )
    closing = 'exec "$0" -c "$1" "$0" 0>&- 1>&- 2>&-'
    assert subprocess.run(["sh", "-c", closing, sys.executable, code]).returncode == 7


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_stdout_takes_every_letter_and_json_stays_json(encoding):
    code = (
        SECURE
        + "import json\nprint(json.dumps({'text': 'caf\\u00e9 \\u4e2d \\U0001f600 \\ud800'}, ensure_ascii=False))"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (finished.returncode, finished.stderr) == (0, b"")
    assert json.loads(finished.stdout.decode(encoding)) == {"text": "caf\u00e9 \u4e2d \U0001f600 \ud800"}


@pytest.mark.parametrize("to", ["| true", "> /dev/full", ">&-"])
def test_what_becomes_of_stdout(to):
    """Nothing to say to a reader that went away; a sentence where a disk is full."""
    script = f"\"$0\" -c \"{SECURE}import sys; from jaxdp.cli import main, plot; plot.run = lambda *_: print(chr(120) * 200000) or 0\nsys.argv[1:] = ['plot', 'x']; sys.exit(main.main())\" {to}; exit ${{PIPESTATUS[0]}}"
    finished = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True)
    full = "full" in to
    assert (finished.returncode, finished.stdout) == (2 if full else 0, ""), finished.stderr
    assert finished.stderr == (
        "jaxdp: standard output cannot be written (No space left on device); redirect it to another file.\n"
        if full
        else ""
    )


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_gets_no_control_characters_a_file_gets_the_text(is_terminal, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    text = "a\x1b[2J\x9b1m\u202e\n\tcaf\u00e9"
    ResultStream(stream).write(text)
    assert stream.getvalue() == ("a\\u001b[2J\\u009b1m\\u202e\n\tcaf\u00e9" if is_terminal else text)
