"""Comparison of configurations: what a resume may change."""

import json
import re

import pytest
from config_keys import leaf_keys, value_of

from jaxdp import defaults
from jaxdp.config import default_values
from jaxdp.config_diff import FIXED_ON_RESUME, check_resumable
from jaxdp.errors import UserError


def changed(key):
    """Two resolved configurations that differ in one key."""
    saved = default_values()
    current = json.loads(json.dumps(saved))
    *groups, last = key.split(".")
    group = current
    for name in groups:
        group = group[name]
    group[last] = "changed"
    return saved, current


MAY_DIFFER = (
    "data.path", "data.eval_path", "data.target_path", "data.eval_target_path", "data.cache_dir", "data.num_workers",
    "data.prefetch_batches", "data.test_path", "data.test_split",
)  # fmt: skip


@pytest.mark.parametrize("key", leaf_keys(defaults.get_config()))
def test_what_a_resume_may_change(key, tmp_path):
    saved, current = changed(key)
    check_resumable(saved, saved, tmp_path)
    if key.split(".")[0] not in (*FIXED_ON_RESUME, saved["task"]) or key in MAY_DIFFER:
        check_resumable(saved, current, tmp_path)
        return
    with pytest.raises(UserError) as refusal:
        check_resumable(saved, current, tmp_path)
    lines = str(refusal.value).splitlines()
    was = value_of(saved, key)
    assert lines[1:-1] == [f"  {key}: {'unset' if was is None else repr(was)} in the run, 'changed' now"]


def test_the_files_of_a_mixture_may_move_but_not_change_their_weight(tmp_path):
    def mixture(path, weight):
        return {"data": {"mixture": [{"source": "text", "path": path, "weight": weight}]}}

    check_resumable(mixture("a", 1.0), mixture("b", 1.0), tmp_path)
    moved = mixture("a", 1.0)
    moved["data"]["mixture"][0] |= {"target_path": "b", "eval_path": "c", "eval_target_path": "d"}
    check_resumable(mixture("a", 1.0), moved, tmp_path)
    with pytest.raises(UserError, match=r"data\.mixture"):
        check_resumable(mixture("a", 1.0), mixture("a", 2.0), tmp_path)


def test_fixed_on_resume_is_the_contract():
    assert set(FIXED_ON_RESUME) == {"task", "model", "data", "seed", "optim", "global_batch_size"}


TASK_KEYS = ("causal_lm.separator", "masked_lm.mask_rate", "classification.kind", "seq2seq.bleu_tokenize")


@pytest.mark.parametrize("key", TASK_KEYS)
@pytest.mark.parametrize("task", [key.split(".")[0] for key in TASK_KEYS])
def test_of_the_groups_of_tasks_the_runs_own_is_fixed_and_the_others_are_free(key, task, tmp_path):
    saved, current = ({**values, "task": task} for values in changed(key))
    if key.split(".")[0] != task:
        check_resumable(saved, current, tmp_path)
        return
    with pytest.raises(UserError, match=rf"\n  {re.escape(key)}: .* in the run, 'changed' now\n"):
        check_resumable(saved, current, tmp_path)


@pytest.mark.parametrize("key", leaf_keys(defaults.get_config()))
def test_a_key_that_a_saved_run_does_not_know_has_its_default(key, tmp_path):
    """jaxdp has gained it since the run was saved."""
    saved, current = changed(key)
    unchanged = json.loads(json.dumps(saved))
    *groups, last = key.split(".")
    del (value_of(saved, ".".join(groups)) if groups else saved)[last]
    check_resumable(saved, unchanged, tmp_path)
    if key.split(".")[0] not in (*FIXED_ON_RESUME, "causal_lm") or key in MAY_DIFFER:
        return
    was = value_of(unchanged, key)
    with pytest.raises(UserError) as refusal:
        check_resumable(saved, current, tmp_path)
    assert f"\n  {key}: {'unset' if was is None else repr(was)} in the run, 'changed' now\n" in str(refusal.value)


def test_a_group_that_a_saved_run_does_not_know_has_its_defaults(tmp_path):
    saved, current = changed("causal_lm.separator")
    del saved["causal_lm"]
    check_resumable(saved, default_values(), tmp_path)
    with pytest.raises(UserError, match=r"\n  causal_lm\.separator: '\\n' in the run, 'changed' now\n"):
        check_resumable(saved, current, tmp_path)


def test_a_key_that_jaxdp_has_lost_is_refused_where_the_run_had_it_set(tmp_path):
    current = default_values()
    check_resumable({**current, "optim": {**current["optim"], "lost": None}}, current, tmp_path)
    with pytest.raises(UserError, match=r"\n  optim\.lost: 2 in the run, unset now\n"):
        check_resumable({**current, "optim": {**current["optim"], "lost": 2}}, current, tmp_path)


def test_a_run_that_kept_a_secret_continues_where_it_is_masked(tmp_path):
    """Versions before kept it."""
    current = default_values()
    saved = json.loads(json.dumps(current))
    secret, kept = "https://ann:pw@host/a.txt?token=abc", "https://ann:***@host/a.txt?token=***"
    saved["data"]["tokenizer"], current["data"]["tokenizer"] = secret, kept
    check_resumable(saved, current, tmp_path)
