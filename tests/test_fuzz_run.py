"""Random damage to every file of a run: each command gives the undamaged result or one sentence, never another result."""

import contextlib
import gc
import io
import json
import os
import random
import shutil
import signal
from pathlib import Path

import jax
import pytest
from tiny_runs import compilation_cache, config_file, saved_arrays, train

from jaxdp.cli.main import main

__all__ = ["compilation_cache", "config_file"]

pytestmark = pytest.mark.slow

DEVICES = "--cpu_devices=8"
OPTIONS = ("--config.optim.schedule=constant", "--config.log.batch_hash=False")
LONGER = "--config.total_steps=9"
MAX_SECS = 300
"""Of one command, which takes a few seconds: what takes longer hangs."""

NUM_DAMAGES = 400
PER_TEST = 10

LABELLED = (
    "--config.task=classification", "--config.data.source=jsonl", "--config.data.tokenizer=char",
    "--config.data.eval_selection=stratified", "--config.eval.metric=eval/accuracy",
)  # fmt: skip


@pytest.fixture(autouse=True)
def few_programs():
    """Frees compiled programs after each test: a process may have 65,530 memory maps, and each program needs some."""
    yield
    jax.clear_caches()
    gc.collect()


class Hang(BaseException):
    """A command that does not end."""


@pytest.fixture(scope="module")
def runs(config_file, tmp_path_factory):
    """Finished runs of a language model and a classifier, their options, and what each command says of them."""
    directory = tmp_path_factory.mktemp("fuzz")
    records = [
        {"text": f"{'good' if number % 2 else 'bad'} word {number}", "label": ["no", "yes"][number % 2]}
        for number in range(200)
    ]
    (directory / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    options = {"lm": OPTIONS, "classifier": (*OPTIONS, *LABELLED, f"--config.data.path={directory / 'data.jsonl'}")}
    found = {}
    for kind, own in options.items():
        workdir = directory / kind / "run"
        assert train(config_file, workdir, *own) == 0
        assert main(["eval", f"--workdir={workdir}", DEVICES]) == 0  # writes evaluation.json
        found[kind] = (workdir, own)
    return found


@pytest.fixture(scope="module")
def expected(runs, config_file, tmp_path_factory):
    """(kind of run, command) -> its result without damage."""
    results = {}
    for kind, (workdir, options) in runs.items():
        for name in commands(kind):
            copy = shutil.copytree(workdir, tmp_path_factory.mktemp("whole") / "run", symlinks=True)
            code, said, result = attempt(name, copy, config_file, options)
            assert code == 0, said
            results[kind, name] = result
    return results


def commands(kind):
    return ("eval", "inspect", "train", "plot", "generate" if kind == "lm" else "predict")


def attempt(name, workdir, config_file, options):
    """Runs a command in this process: (exit code, what it said on stderr, its result)."""
    argv = {
        "eval": ["eval", f"--workdir={workdir}", DEVICES, "--json"],
        "inspect": ["inspect", str(workdir), "--verify"],
        "train": ["train", f"--config={config_file}", f"--workdir={workdir}", LONGER, *options],
        "plot": ["plot", str(workdir)],
        "generate": [
            "generate",
            f"--workdir={workdir}",
            "--prompt=the ",
            "--max_new_tokens=6",
            "--num_samples=2",
            DEVICES,
            "--json",
        ],
        "predict": ["predict", f"--workdir={workdir}", "--text=good word", DEVICES],
    }[name]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), at_most(MAX_SECS):
        code = main(argv)
    result = out.getvalue() if name in ("eval", "generate", "predict") else None
    if name == "train" and code == 0:
        result = {path: array.tobytes() for path, array in saved_arrays(workdir, 9).items()}
    return code, err.getvalue(), result


@contextlib.contextmanager
def at_most(secs):
    def give_up(*_):
        raise Hang(f"no end after {secs} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(secs)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flip(path, draws):
    content = bytearray(path.read_bytes())
    if not content:
        return "nothing to flip"
    place, bit = draws.randrange(len(content)), draws.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place}, now {bytes(content[max(place - 30, 0) : place + 30])!r}"


def truncate(path, draws):
    size = draws.randrange(path.stat().st_size + 1)
    os.truncate(path, size)
    return f"to {size} bytes"


def replaced_by(make):
    def replace(path, draws):
        path.unlink()
        make(path, draws)

    return replace


def may_go(folder):
    """Returns True for a folder that is part of a run or a checkpoint; users may delete whole checkpoints."""
    return folder.name not in ("run", "checkpoints") and folder.parent.name != "checkpoints"


def another_file(path, draws):
    others = [other for other in sorted(path.parents[0].iterdir(), key=by_content) if other.is_file()]
    chosen = draws.choice(others)
    path.write_bytes(chosen.read_bytes())
    return f"that of {chosen.name}"


def by_content(path):
    """An order in which the same files follow each other in every run: the names of array files are random."""
    return "/".join("" if len(part) == 32 else part for part in path.parts), path.stat().st_size


DAMAGES = {
    "flip": flip,
    "truncate": truncate,
    "delete": lambda path, draws: path.unlink(),
    "empty": lambda path, draws: path.write_bytes(b""),
    "directory": replaced_by(lambda path, draws: path.mkdir()),
    "pipe": replaced_by(lambda path, draws: os.mkfifo(path)),
    "loop": replaced_by(lambda path, draws: path.symlink_to(path.name)),
    "nesting": lambda path, draws: path.write_bytes(draws.choice([b"[", b'{"a":']) * 200_000),
    "deep": lambda path, draws: path.write_bytes(b'{"a":' * 900 + b"1" + b"}" * 900),
    "bytes": lambda path, draws: path.write_bytes(draws.randbytes(draws.randrange(300))),
    "value": lambda path, draws: path.write_bytes(
        draws.choice([b"7", b"null", b"[]", b"{}", b'"x"', b"9" * 400, b"NaN"])
    ),
    "another": another_file,
    "folder gone": lambda path, draws: shutil.rmtree(path.parent) if may_go(path.parent) else path.unlink(),
}


def damaged(workdir, draws):
    """Damages one file; returns what was done. Files of the run itself come as often as all those of its checkpoints.

    The same seed damages the same file in every run, at nearly the same place: times, hashes and measured speeds make
    files of a few bytes more or less.
    """
    files = sorted((path for path in workdir.rglob("*") if path.is_file() and path.name != "run.lock"), key=by_content)
    own = [path for path in files if "checkpoints" not in path.relative_to(workdir).parts]
    path = draws.choice(own if draws.random() < 0.5 else files)
    name = draws.choice(sorted(DAMAGES))
    detail = None
    with contextlib.suppress(FileNotFoundError):
        detail = DAMAGES[name](path, draws)
    return f"{name} of {path.relative_to(workdir)}" + (f" ({detail})" if isinstance(detail, str) else "")


@pytest.mark.parametrize("seed", range(NUM_DAMAGES // PER_TEST))
def test_damage_is_a_sentence_or_nothing(runs, expected, config_file, tmp_path, seed):
    problems = []
    for turn in range(PER_TEST):
        draws = random.Random(f"{seed}/{turn}")
        kind = draws.choice(["lm", "classifier"])
        workdir, options = runs[kind]
        state = draws.getstate()
        for name in draws.sample(commands(kind), 2):
            copy = Path(shutil.copytree(workdir, tmp_path / "run", symlinks=True))
            draws.setstate(state)  # the same damage for both commands
            done = damaged(copy, draws)
            problem = found_problem(name, copy, config_file, options, expected[kind, name])
            if problem:
                problems.append(f"seed {seed} turn {turn}: {kind}, {done}: {name}: {problem}")
            shutil.rmtree(copy)
    assert not problems, "\n".join(problems)


def found_problem(name, workdir, config_file, options, expected):
    try:
        code, said, result = attempt(name, workdir, config_file, options)
    except Hang as hang:
        return str(hang)
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    if code not in (0, 2, 4):
        return f"exit code {code}: {said[-1500:]}"
    sentences = [line for line in said.splitlines() if line.startswith("jaxdp: ")]
    if "Traceback" in said or "internal error" in said or (code and len(sentences) != 1):
        return f"said {said[-1500:]}"
    if code == 0 and result != expected:
        return (
            f"another result than without damage: {said[-800:]}"
            if name == "train"
            else f"{result!r} instead of {expected!r}"
        )
    return None
