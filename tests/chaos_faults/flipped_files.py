"""One flipped bit in a file of the newest checkpoint."""

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
from tiny_runs import saved_arrays

from chaos_faults.workshop import Row, Workshop, expect
from jaxdp.checkpoint.manifest import read_manifest
from jaxdp.checkpoint.restoring import restore_latest
from jaxdp.checksum import leaf_checksums
from jaxdp.cli.main import main
from jaxdp.config import load_config, parse_config
from jaxdp.state import TrainState
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

OPTIONS = ["--cpu_devices=2", "--config.total_steps=12", "--config.checkpoint.every_steps=6"]


def flipped_files(workshop: Workshop, num_positions: int) -> Iterator[Row]:
    """Every position is noticed at resume and by `inspect --verify`; the checkpoint before is restored."""
    draws, whole = workshop.draws("flipped files"), workshop.directory / "whole"
    workshop.finish(whole, *OPTIONS)
    files = sorted(path.relative_to(whole) for path in whole.glob("checkpoints/12/**/*") if path.is_file())
    files = [path for path in files if (whole / path).stat().st_size]
    expected = [leaf["checksum"] for leaf in read_manifest(whole / "checkpoints" / "6").leaves]
    state_like, missed = _abstract_state(workshop), []
    for turn in range(num_positions):
        file = files[turn % len(files)]
        workdir = workshop.directory / f"flipped_{turn}"
        shutil.copytree(whole, workdir)
        size = (workdir / file).stat().st_size
        position, bit = draws.randrange(size), draws.randrange(8)
        _flip(workdir / file, position, bit)
        code, _ = _quietly(["inspect", str(workdir), "--verify"])
        said: list[str] = []
        state = restore_latest(workdir / "checkpoints", state_like, said.append)
        aside = workdir / "checkpoints" / "12.damaged"
        noticed = code == 4 and len(said) == 1 and str(aside) in said[0] and aside.is_dir()
        used = state is not None and int(state.step) == 6 and _checksums(state) == expected
        if not (noticed and used):
            missed.append(
                f"{file} byte {position} bit {bit}: inspect {code}, resume said {said}, step {state and state.step}"
            )
        shutil.rmtree(workdir)
    expect(not missed, f"{len(missed)} of {num_positions} not as promised:\n" + "\n".join(missed))
    _train_on(workshop, whole, draws.choice(files))
    yield Row(
        "flipped bit in a checkpoint",
        f"a random bit of each of its {len(files)} files in turn, manifest included",
        str(num_positions),
        "each found by `inspect --verify` (exit 4) and at resume, set aside, the checkpoint before restored; "
        "a run that goes on ends bitwise as undisturbed",
    )


def _train_on(workshop: Workshop, whole: Path, file: Path) -> None:
    """A run with such a checkpoint, by the command line."""
    workdir = workshop.directory / "flipped"
    shutil.copytree(whole, workdir)
    _flip(workdir / file, 0, 0)
    said = workshop.finish(workdir, *OPTIONS)
    expect(
        "checkpoint 12 is damaged and set aside as " in said and "resuming from checkpoint 6 of 12 steps" in said, said
    )
    ended, undisturbed = saved_arrays(workdir, 12), saved_arrays(whole, 12)
    expect(ended.keys() == undisturbed.keys(), "other arrays than before")
    for name, array in ended.items():
        expect(array.tobytes() == undisturbed[name].tobytes(), f"{name} is not bitwise that of the undisturbed run")


def _flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def _checksums(state: TrainState) -> list[int]:
    return jax.jit(leaf_checksums)(state).tolist()


def _quietly(arguments: list[str]) -> tuple[int, str]:
    """The command line in this process: exit code and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = main(arguments)
    return code, said.getvalue()


def _abstract_state(workshop: Workshop) -> TrainState:
    """What the run restores into."""
    overrides = ["--config.parallel.cpu_devices=2", "--config.microbatch_size=2", "--config.optim.schedule=constant"]
    config = parse_config(load_config(str(workshop.config), overrides))
    return TrainingSetup(prepare_run(config)).placement.portable
