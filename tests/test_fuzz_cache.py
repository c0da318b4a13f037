"""Random damage to the cache of prepared data: the undamaged result, or exit 2 with one sentence; never another number.

JAXDP_FUZZ_SEED=7 JAXDP_FUZZ_COUNT=1000 python -m pytest -m slow tests/test_fuzz_cache.py
"""

import gc
import json
import os
import random
import shutil

import jax
import pytest
from tiny_runs import assert_refused, compilation_cache, config_file, metrics_lines, train

from jaxdp.cli.main import main
from jaxdp.data import block_file

__all__ = ["compilation_cache", "config_file"]

SEED = int(os.environ.get("JAXDP_FUZZ_SEED", "0"))
COUNT = int(os.environ.get("JAXDP_FUZZ_COUNT", "100"))
STEADY = ("--config.eval.every_steps=0", "--config.checkpoint.every_steps=0", "--config.total_steps=4")
PACKED = ("--config.data.tokenizer=bpe:260", "--config.data.packing=documents", "--config.data.long_documents=cut")
LABELLED = ("--config.task=classification", "--config.model.preset=encoder_nano", "--config.data.length=64")
SETUPS = {"packed": PACKED, "labelled": (*LABELLED, "--config.data.long_documents=cut")}


class Cache:
    """Prepared data of a run, what commands say of it, and a copy without damage."""

    def __init__(self, root, config_file, options):
        self.root, self._config_file = root, config_file
        with open(root / "data.jsonl", "w", encoding="utf-8") as file:
            for number in range(3000):
                record = {"text": f"the cat number {number} sat on a mat " * 20, "label": number % 3}
                file.write(json.dumps(record) + "\n")
        self._options = (
            "--config.data.source=jsonl", f"--config.data.path={root}/data.jsonl",
            f"--config.data.cache_dir={root}/cache", *STEADY, *options,
        )  # fmt: skip
        assert self.train(root / "run") == 0
        shutil.copytree(root / "cache", root / "whole")
        self.files = sorted(path.relative_to(root / "whole") for path in (root / "whole").rglob("*"))

    def train(self, workdir):
        return train(self._config_file, workdir, *self._options)

    def restore(self):
        shutil.rmtree(self.root / "cache", ignore_errors=True)
        shutil.copytree(self.root / "whole", self.root / "cache")

    def result(self, command, capsys):
        """Exit code and numbers of a command that uses the data."""
        capsys.readouterr()
        if command == "eval":
            code = main(["eval", f"--workdir={self.root}/run", "--json", "--cpu_devices=8"])
            return code, None if code else json.loads(capsys.readouterr().out)
        shutil.rmtree(self.root / "again", ignore_errors=True)
        code = self.train(self.root / "again")
        names = ("step", "train/loss", "data/batch_hash")
        return code, None if code else [[line[name] for name in names] for line in metrics_lines(self.root / "again")]


def flip(path, draws):
    content = bytearray(path.read_bytes())
    if content:
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)


def replaced_by(make):
    def replace(path, draws):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return replace


ANYTHING = {
    "delete": replaced_by(lambda path: None),
    "directory": replaced_by(os.mkdir),
    "FIFO": replaced_by(os.mkfifo),
    "loop": replaced_by(lambda path: path.symlink_to(path)),
    "dangling": replaced_by(lambda path: path.symlink_to(path.with_name("nowhere"))),
    "empty": replaced_by(lambda path: path.touch()),
    "text": replaced_by(lambda path: path.write_text("no entry")),
}
FILES = {
    "flip": flip,
    "truncate": lambda path, draws: os.truncate(path, draws.randrange(path.stat().st_size + 1)),
    "zeros": lambda path, draws: path.write_bytes(bytes(path.stat().st_size)),
    "nesting": lambda path, draws: path.write_text("[" * 100_000),
    **ANYTHING,
}


def fuzz(cache, seed, count, capsys, monkeypatch):
    """Tries `count` damages with two commands each; returns what was not as promised."""
    draws, expected, broken = random.Random(seed), {}, []
    for command in ("train", "eval"):
        code, expected[command] = cache.result(command, capsys)
        assert code == 0
    for turn in range(count):
        file = draws.choice(cache.files)
        kinds = ANYTHING if (cache.root / "whole" / file).is_dir() else FILES
        kind, trial = draws.choice(sorted(kinds)), draws.getrandbits(32)
        monkeypatch.setattr(block_file, "MEMORY_BYTES", draws.choice((0, 1 << 28)))
        # Each compiled program is mapped memory, and XLA crashes at 65,530 maps of a process.
        jax.clear_caches()
        gc.collect()
        for command in ("train", "eval"):
            cache.restore()
            kinds[kind](cache.root / "cache" / file, random.Random(trial))
            what = f"seed {seed} turn {turn}: {kind} of {file}, {command}"
            code, found = cache.result(command, capsys)
            if code == 2:
                sentence = assert_refused(capsys)
                code, found = cache.result(command, capsys)  # the same command again
                what += f", after {sentence!r}"
            if code != 0 or found != expected[command]:
                broken.append(f"{what}: exit {code}, {found}; {capsys.readouterr().err[-500:]}")
    return broken


@pytest.fixture(params=SETUPS)
def cache(request, tmp_path, config_file):
    return Cache(tmp_path, config_file, SETUPS[request.param])


@pytest.mark.slow
def test_no_damage_to_the_cache_changes_a_number(cache, capsys, monkeypatch):
    broken = fuzz(cache, SEED, COUNT // len(SETUPS), capsys, monkeypatch)
    assert not broken, "\n".join(broken)
