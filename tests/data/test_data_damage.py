"""Data that are damaged, cut short or gone while a command uses them: exit 2 with the file's name, never a wrong number."""

import os

import numpy as np
import pytest
from tiny_runs import assert_refused, metrics_lines, train

from jaxdp.cli.main import main
from jaxdp.data import block_file
from jaxdp.data.loader import IndexedLoader

MIB = 1 << 20
STEADY = ("--config.eval.every_steps=0", "--config.checkpoint.every_steps=0")


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 64
    path.write_bytes(content)


@pytest.fixture
def tokens_run(tmp_path, monkeypatch):
    """A token file, and options to train on it as on one that is too large to be kept in memory."""
    monkeypatch.setattr(block_file, "MEMORY_BYTES", 0)
    path = tmp_path / "tokens.bin"
    np.random.default_rng(0).integers(0, 50, MIB, np.uint16).tofile(path)
    return path, (f"--config.data.path={path}", "--config.data.source=tokens", "--config.model.vocab_size=50", *STEADY)


def at_step(monkeypatch, step, act):
    """Calls `act` before batch(step) is made."""
    batches_from = IndexedLoader.batches

    def batches(feed, first_step):
        for number, batch in enumerate(batches_from(feed, first_step), first_step):
            yield batch
            if number + 1 == step:
                act()

    monkeypatch.setattr(IndexedLoader, "batches", batches)


@pytest.mark.parametrize("size", [0, 2, 1000])
def test_a_token_file_that_is_cut_short_while_training(tokens_run, config_file, tmp_path, monkeypatch, capsys, size):
    path, options = tokens_run
    at_step(monkeypatch, 3, lambda: os.truncate(path, size))
    assert train(config_file, tmp_path / "run", *options) == 2
    expected = f"{path} became shorter while it was read: expected {2 * MIB:,} bytes, found {size:,}"
    assert assert_refused(capsys).startswith(expected)


def test_a_token_file_that_is_removed_while_training_is_read_to_the_end(
    tokens_run, config_file, tmp_path, monkeypatch, capsys
):
    path, options = tokens_run
    assert train(config_file, tmp_path / "whole", *options) == 0
    content = path.read_bytes()
    at_step(monkeypatch, 3, path.unlink)
    assert train(config_file, tmp_path / "run", *options) == 0
    losses = [[line["train/loss"] for line in metrics_lines(tmp_path / name)] for name in ("whole", "run")]
    assert losses[0] == losses[1]
    capsys.readouterr()
    assert main(["eval", f"--workdir={tmp_path}/run", "--cpu_devices=8"]) == 2
    assert f"{path} does not exist" in assert_refused(capsys)
    path.write_bytes(content)
    assert main(["eval", f"--workdir={tmp_path}/run", "--cpu_devices=8"]) == 0


@pytest.mark.parametrize("command", ["eval", "bench"])
def test_a_token_file_that_is_cut_short_in_other_commands(
    tokens_run, config_file, tmp_path, monkeypatch, capsys, command
):
    path, options = tokens_run
    if command == "eval":
        assert train(config_file, tmp_path / "run", *options) == 0
        capsys.readouterr()
    fingerprint = "jaxdp.data.direct_sources.fingerprint_tokens"
    digest = __import__("jaxdp.data.direct_sources", fromlist=["_"]).fingerprint_tokens

    def cut_after(files):
        found = digest(files)
        os.truncate(path, 1000)
        return found

    monkeypatch.setattr(fingerprint, cut_after)
    arguments = {
        "eval": ["eval", f"--workdir={tmp_path}/run", "--cpu_devices=8"],
        "bench": ["bench", f"--config={config_file}", "--data", *options],
    }
    assert main(arguments[command]) == 2
    assert f"{path} became shorter while it was read" in assert_refused(capsys)


def test_a_flipped_bit_in_the_middle_of_the_cache_is_found_and_the_next_start_prepares_anew(
    config_file, tmp_path, capsys
):
    """One bit of the second of four MiB."""
    (tmp_path / "text.txt").write_text("the cat sat on a mat " * 200_000)
    options = (f"--config.data.path={tmp_path}/text.txt", f"--config.data.cache_dir={tmp_path}/cache", *STEADY)
    assert train(config_file, tmp_path / "whole", *options) == 0
    [tokens] = (tmp_path / "cache").glob("tokens-*/train/tokens.00000.bin")
    assert tokens.stat().st_size > 4 * MIB
    for position in range(MIB, tokens.stat().st_size - MIB, MIB):
        flip(tokens, position)
    capsys.readouterr()
    assert train(config_file, tmp_path / "run", *options) == 2
    sentence = assert_refused(capsys)
    assert sentence.startswith(f"{tokens} in the cache of prepared data is damaged: the checksum of block ")
    assert sentence.endswith("of 1 MiB differs; run the same command again, which prepares it again.")
    assert train(config_file, tmp_path / "run", *options) == 0
    assert f"{tokens.parents[1]} is damaged and is built again" in capsys.readouterr().err
    losses = [[line["train/loss"] for line in metrics_lines(tmp_path / name)] for name in ("whole", "run")]
    assert len(losses[0]) == 6 and losses[0] == losses[1]
