"""Nearest-name suggestions for misspelled configuration keys, commands and options."""

import difflib
from collections.abc import Iterable, Sequence

MIN_SIMILARITY = 0.6
"""Lowest ratio of `difflib` that counts as a misspelling."""

SYNONYMS = {
    "accumulation_steps": "microbatch_size", "batch_size": "global_batch_size", "beta1": "b1", "beta2": "b2",
    "block_size": "length", "bs": "global_batch_size", "context_length": "length", "d_ff": "mlp_dim",
    "d_model": "embed_dim", "dim": "embed_dim", "eval_interval": "every_steps", "ffn_dim": "mlp_dim",
    "grad_accum_steps": "microbatch_size", "grad_clip": "clip_norm", "gradient_accumulation_steps": "microbatch_size",
    "hidden_dim": "embed_dim", "hidden_size": "embed_dim", "intermediate_size": "mlp_dim", "lr": "learning_rate",
    "max_grad_norm": "clip_norm", "max_iters": "total_steps", "max_len": "length", "max_length": "length",
    "max_lr": "learning_rate", "max_seq_length": "length", "min_lr": "end_learning_rate", "n_embd": "embed_dim",
    "n_head": "num_heads", "n_layer": "num_layers", "optimizer": "name", "seq_len": "length", "wd": "weight_decay",
}  # fmt: skip
"""Names of the same settings in other trainers."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that was most likely meant, or None.

    Args:
        name: The unknown name.
        known: Names that exist.
    """
    names = list(known)
    if SYNONYMS.get(name) in names:
        return SYNONYMS[name]
    return next(iter(difflib.get_close_matches(name, names, 1, MIN_SIMILARITY)), None)


def nearest(name: str, known: Sequence[str]) -> str:
    """Returns the end of a message about an unknown key: `; did you mean 'optim.learning_rate'?`.

    The last part of the key is compared with the keys of the same group first, then with
    all keys. If nothing is similar, the keys of the group are listed.

    Args:
        name: The unknown key, `group.key`.
        known: All keys, groups included.
    """
    group, _, last = name.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == group}
    everywhere = {key.rpartition(".")[2]: key for key in reversed(known)}
    for keys in (siblings, everywhere):
        if match := closest(last, keys):
            return f"; did you mean {keys[match]!r}?"
    if siblings:
        return f"; {f'the keys of {group}' if group else 'the groups and keys'} are {', '.join(siblings)}."
    return f"; {group!r} is no group of keys."
