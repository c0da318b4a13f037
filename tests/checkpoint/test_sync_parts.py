"""The strategy's own state in checkpoints: parts that fit are restored, the others dropped or left to initialise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoints import make_state, topology

from jaxdp.checkpoint import restoring
from jaxdp.checkpoint.manifest import read_manifest
from jaxdp.checkpoint.restoring import restore
from jaxdp.checkpoint.retention import Retention
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.checkpoint.sync_parts import SyncParts, sync_parts
from jaxdp.errors import DamageFound, UserError
from jaxdp.parallel.placement import abstract_replicated

SYNC = {"outer_params": {"kernel": jnp.full((2, 3), 7.0), "bias": jnp.arange(3.0)}, "worker_states": jnp.arange(4.0)}


def state_with(sync):
    return jax.device_put(make_state(1).replace(sync=sync), topology().replicated)


def abstract_with(sync):
    return abstract_replicated(jax.eval_shape(lambda: state_with(sync)), topology())


def saved_with(checkpoints, sync):
    writer = CheckpointWriter(checkpoints, Retention(), abstract_with(sync), async_save=False)
    writer.save(1, state_with(sync), {"step": 1}, {"seed": 1}, {})
    writer.close()
    return checkpoints / "1"


@pytest.mark.parametrize(
    ("wanted", "restored"),
    [
        (SYNC, ["outer_params", "worker_states"]),
        (SYNC | {"worker_states": jnp.zeros(8)}, ["outer_params"]),  # another number of workers
        (SYNC | {"worker_states": jnp.zeros(4, jnp.int32)}, ["outer_params"]),
        ({"outer_params": {"kernel": jnp.zeros((2, 3))}}, []),  # a part is restored as a whole or not at all
        ({"residuals": jnp.zeros(5)}, []),
        (SYNC | {"residuals": jnp.zeros(5)}, ["outer_params", "worker_states"]),
        ((), []),
    ],
    ids=["same", "count", "dtype", "fewer leaves", "other strategy", "more parts", "none"],
)
@pytest.mark.parametrize("saved", [SYNC, ()], ids=["parts", "nothing"])
def test_parts_that_fit_are_restored_and_the_model_always(checkpoints, wanted, restored, saved):
    restored = restored if saved else []
    checkpoint = saved_with(checkpoints, saved)
    state = restore(checkpoint, abstract_with(wanted))
    assert list(state.sync) == restored
    for part in restored:
        jax.tree.map(np.testing.assert_array_equal, state.sync[part], SYNC[part])
    expected = make_state(1)
    jax.tree.map(np.testing.assert_array_equal, state.replace(sync=()), expected)
    found = sync_parts(read_manifest(checkpoint).leaves, abstract_with(wanted))
    assert found == SyncParts(
        restored,
        [part for part in saved if part not in restored],
        sorted(part for part in wanted if part not in restored),
    )


def test_a_sentence_says_what_is_not_restored():
    assert SyncParts(["outer_params"], [], []).describe("local", "local") is None
    assert SyncParts([], ["worker_states", "outer_params", "weights"], []).describe("local", "pmean") == (
        "of the checkpoint's own state of parallel.sync=local, dropped: worker states, outer params and weights; of "
        "parallel.sync=pmean, initialised from the parameters: nothing"
    )


def test_another_model_is_refused_also_where_the_strategy_differs(checkpoints):
    checkpoint = saved_with(checkpoints, SYNC)
    other = abstract_with(()).replace(params={"kernel": abstract_with(()).params["kernel"]})
    with pytest.raises(UserError, match="params/bias"):
        restore(checkpoint, other)


def test_a_restored_part_that_differs_from_what_was_saved_is_damage(checkpoints, monkeypatch):
    checkpoint = saved_with(checkpoints, SYNC)
    read = restoring._read

    def spoiled(*given, **options):
        state = read(*given, **options)
        return state.replace(
            sync=state.sync | {"outer_params": jax.tree.map(lambda leaf: leaf + 1, SYNC["outer_params"])}
        )

    monkeypatch.setattr(restoring, "_read", spoiled)
    with pytest.raises(DamageFound, match="sync/outer_params/bias restored from"):
        restore(checkpoint, abstract_with(SYNC | {"worker_states": jnp.zeros(8)}))
