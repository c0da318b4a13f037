"""Signals of real processes before, in and after a command: one exit code each, whatever the command does with them."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import importlib, os, signal, sys, time
from pathlib import Path
from jaxdp import interrupts
from jaxdp.cli import inspect, main

{preparation}

def ready():
    print("ready", flush=True)

def run(options, rest):
    {body}
    return 0

inspect.run = run
sys.argv = ["jaxdp", "inspect", "x"]
code = main.main()
{after}
sys.exit(code)
"""
"""A command with another body: it does not matter to signals what a command computes."""


def ended_by(*numbers, body, preparation="", after="", ignored=""):
    """Sends signals to such a process once it is ready; returns exit code and stderr."""
    script = SCRIPT.format(preparation=preparation, body=body, after=after)
    process = subprocess.Popen(
        ["sh", "-c", f'trap "" {ignored}; exec "$@"' if ignored else 'exec "$@"', "sh", sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n", process.communicate()
    for number in numbers:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


NO_LIMIT = "interrupts.UNWIND_SECS = 600"
"""The thread does not help."""

SLEEP = "ready(); time.sleep(60)"

TERMINATED = "stopped, nothing to save yet; run the same command again\n"


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 75, "jaxdp: SIGTERM: " + TERMINATED),
        (signal.SIGHUP, 75, "jaxdp: SIGHUP: " + TERMINATED),
        (signal.SIGINT, 130, "jaxdp: interrupted\n"),
    ],
)
def test_a_signal_ends_a_command_with_its_code(number, code, said):
    assert ended_by(number, body=SLEEP) == (code, said)


@pytest.mark.parametrize(
    "body",
    [
        "try: ready(); time.sleep(60)\n    except BaseException: pass",
        "try: ready(); time.sleep(60)\n    except BaseException as e: raise ImportError('in a C extension') from None",
        "try: ready(); time.sleep(60)\n    finally: time.sleep(60)",
    ],
    ids=["swallowed", "replaced", "slow to end"],
)
def test_no_library_takes_the_signal_away(body):
    code, err = ended_by(signal.SIGTERM, body=body, preparation="interrupts.UNWIND_SECS = 0.2")
    assert (code, err) == (75, "jaxdp: SIGTERM: " + TERMINATED) or (code, err) == (75, "")


def test_an_import_that_swallows_ends_at_once(tmp_path):
    module = "print('ready', flush=True)\ntry:\n    import time; time.sleep(60)\nexcept BaseException:\n    pass\n"
    (tmp_path / "swallowing.py").write_text(module)
    body = f"sys.path.append({str(tmp_path)!r}); importlib.import_module('swallowing'); time.sleep(60)"
    assert ended_by(signal.SIGINT, body=body, preparation=NO_LIMIT) == (130, "jaxdp: interrupted\n")


def test_a_destructor_that_swallows_ends_at_once():
    preparation = NO_LIMIT + "\nclass D:\n    def __del__(self): ready(); time.sleep(60)"
    assert ended_by(signal.SIGTERM, body="D(); time.sleep(60)", preparation=preparation) == (
        75,
        "jaxdp: SIGTERM: " + TERMINATED,
    )


def test_a_main_thread_without_bytecodes_is_ended():
    """As in a compilation; a handler cannot run there."""
    body = "import hashlib; ready(); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    code, err = ended_by(signal.SIGTERM, body=body, preparation="interrupts.UNWIND_SECS = 0.2")
    assert (code, err) == (75, "jaxdp: SIGTERM: " + TERMINATED)


def test_twice_ends_at_once_but_a_second_hang_up_does_not():
    body = "try: ready(); time.sleep(60)\n    finally: os.write(2, b'unwinding '); sys.stdin.read(1); os.write(2, b'unwound ')"
    script = SCRIPT.format(preparation="", body=body, after="")
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.stderr.read(10) == b"unwinding "
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(b"x", timeout=60)
    assert process.returncode == 75 and err.startswith(b"unwound ")


def test_nohup_stays_in_force():
    body = "ready(); time.sleep(0.3)"
    assert ended_by(signal.SIGHUP, body=body, ignored="HUP") == (0, "")


def test_interrupts_that_a_shell_ignores_are_heard():
    """Every `&` in a script ignores SIGINT; `launch/tpu_pod.sh` starts training so."""
    assert ended_by(signal.SIGINT, body=SLEEP, ignored="INT")[0] == 130


AT_THE_END = """
class Late:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"ready\\n")
        sleep(0.5)

late = Late()
"""
"""Still at work when the interpreter takes itself apart and has given up its handlers."""


@pytest.mark.parametrize(
    "after",
    ["ready(); time.sleep(60)", "import atexit; atexit.register(lambda: (ready(), time.sleep(60)))", AT_THE_END],
    ids=["before the exit", "in atexit", "in the finalisation"],
)
def test_after_the_end_the_exit_code_stays(after):
    assert ended_by(signal.SIGTERM, body="return 4", after=after) == (4, "")


def test_a_call_from_python_leaves_signals_alone():
    code = (
        "import signal\nfrom jaxdp.cli.main import main\nbefore = [signal.getsignal(n) for n in (1, 2, 15)]\n"
        "assert main(['--version']) == 0\nassert before == [signal.getsignal(n) for n in (1, 2, 15)]"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_overview_imports_no_more_than_it_needs():
    """`--help` takes 30 ms, nearly all of it Python's own."""
    code = (
        "import sys\nfrom jaxdp.cli.main import main\nmain(['--help'])\n"
        "sys.exit(', '.join({'typing', 'traceback', 'logging', 'difflib', 'pathlib', 'dataclasses', 'inspect', 'jaxdp.user_code'} & set(sys.modules)) or 0)"
    )
    finished = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_nothing_slow_is_imported_before_the_handlers():
    """Until the handlers are installed, SIGTERM kills the process with 143."""
    code = (
        "import atexit, importlib, os, signal, sys\nbefore = set(sys.modules)\nimport jaxdp.cli.main\n"
        "sys.exit(', '.join(name for name in set(sys.modules) - before if not name.startswith('jaxdp')) or 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
