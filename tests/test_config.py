"""Configuration files, command line values, JSON."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from config_keys import leaf_keys, value_of
from ml_collections import ConfigDict

from jaxdp import defaults
from jaxdp.config import (
    default_values,
    from_json,
    load_config,
    parse_config,
    read_run_config,
    to_json,
)
from jaxdp.config_values import CHOICES_OF_WORDS
from jaxdp.errors import UserError
from jaxdp.nearest import nearest
from jaxdp.run_config import GROUPS, KEY_TYPES

HEAD = "from jaxdp import defaults\n\n\ndef get_config():\n    config = defaults.get_config()\n"


@pytest.fixture
def load(tmp_path):
    """load(lines of the file's get_config, *command line) -> configuration."""

    def load(body, *overrides):
        path = tmp_path / "config.py"
        path.write_text(HEAD + "".join(f"    {line}\n" for line in body) + "    return config\n")
        return load_config(str(path), overrides)

    return load


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("total_steps=7", "total_steps", 7),
        ("optim.learning_rate=3e-4", "optim.learning_rate", 3e-4),
        ("optim.learning_rate=1", "optim.learning_rate", 1.0),
        ("log.batch_hash=True", "log.batch_hash", True),
        ("log.batch_hash=false", "log.batch_hash", False),
        ("log.batch_hash", "log.batch_hash", True),
        ("data.path=a=b c", "data.path", "a=b c"),
        ("model.num_layers=3", "model.num_layers", 3),
        ("model.use_bias=False", "model.use_bias", False),
        ("microbatch_size=2", "microbatch_size", 2),
        ("parallel.cpu_devices=8", "parallel.cpu_devices", 8),
        ("seed=5", "seed", 5),
    ],
)
def test_the_command_line_beats_the_file(load, override, key, value):
    body = ["config.total_steps = 3", "config.model.num_layers = 9", "config.seed = 1"]
    found = value_of(load(body, f"--config.{override}"), key)
    assert found == value and type(found) is type(value)


def test_a_truth_value_can_be_switched_off(load):
    assert (
        load(["config.total_steps = 3", "config.log.batch_hash = True"], "--noconfig.log.batch_hash").log.batch_hash
        is False
    )


@pytest.mark.parametrize(
    ("key", "in_file"),
    [
        ("data.path", "'a.txt'"),
        ("model.num_layers", "3"),
        ("parallel.watchdog_secs", "9.0"),
        ("model.use_bias", "True"),
    ],
)
def test_none_unsets_an_optional_key(load, key, in_file):
    config = load(["config.total_steps = 3", f"config.{key} = {in_file}"], f"--config.{key}=None")
    assert value_of(config, key) is None
    *groups, last = key.split(".")
    assert value_of(config, ".".join(groups)).get_type(last) is value_of(
        defaults.get_config(), ".".join(groups)
    ).get_type(last)


def test_the_last_of_several_values_counts_none_included(load):
    body = ["config.total_steps = 3"]
    assert load(body, "--config.data.path=a", "--config.data.path=None").data.path is None
    assert load(body, "--config.data.path=None", "--config.data.path=a").data.path == "a"
    assert load(body, "--config.total_steps=None", "--config.total_epochs=1").total_epochs == 1.0
    assert (
        load(body, "--config.data.text_column=None").data.text_column == "None"
    )  # a name like any other: the key is not optional


def test_a_tuple_can_be_overridden(load):
    config = load(["config.total_steps = 3"], "--config.data.mixture=({'path': 'a', 'weight': 1.0}, 2)")
    assert config.data.mixture == ({"path": "a", "weight": 1.0}, 2)


@pytest.mark.parametrize(
    ("body", "overrides", "kept"),
    [
        (["config.total_steps = 3"], [], {"total_steps": 3}),
        (["config.total_steps = 3"], ["--config.total_epochs=2"], {"total_epochs": 2.0}),
        (["config.total_epochs = 0.5"], ["--config.total_tokens=1e6"], {"total_tokens": 1e6}),
        (["config.total_steps = 3", "config.total_epochs = 1.0"], ["--config.total_steps=4"], {"total_steps": 4}),
    ],
)
def test_a_duration_on_the_command_line_replaces_the_files(load, body, overrides, kept):
    config = load(body, *overrides)
    durations = {key: config[key] for key in ("total_steps", "total_epochs", "total_tokens")}
    assert {key: value for key, value in durations.items() if value is not None} == kept


@pytest.mark.parametrize(
    ("body", "overrides", "sentence"),
    [
        ([], [], "exactly one of total_steps, total_epochs, total_tokens must be set; none is given"),
        (
            ["config.total_steps = 3", "config.total_epochs = 1.0"], [],
            "the configuration gives total_steps and total_epochs",
        ),
        ([], ["--config.total_steps=3", "--config.total_tokens=5"], "the command line gives total_steps and total_tokens"),
        ([], ["--config.total_steps=0"], "total_steps=0 must be above 0 and finite"),
        ([], ["--config.total_epochs=-1"], "total_epochs=-1.0 must be above 0"),
        ([], ["--config.total_epochs=nan"], "total_epochs=nan must be above 0"),
        ([], ["--config.total_tokens=inf"], "total_tokens=inf must be above 0 and finite"),
    ],
)  # fmt: skip
def test_durations_that_say_nothing_or_too_much(load, body, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        load(body, *overrides)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "--config.optim.learning_rat=1",
            "unknown configuration key 'optim.learning_rat'; did you mean 'optim.learning_rate'",
        ),
        ("--config.learning_rate=1", "did you mean 'optim.learning_rate'"),
        ("--config.total_step=1", "did you mean 'total_steps'"),
        ("--config.model.layers=1", "did you mean 'model.num_layers'"),
        (
            "--config.zzz=1",
            "unknown configuration key 'zzz'; the groups and keys are causal_lm, checkpoint, classification, data, embedding, ",
        ),
        ("--config.optim.lr=1", "unknown configuration key 'optim.lr'; did you mean 'optim.learning_rate'"),
        ("--config.model.n_embd=1", "unknown configuration key 'model.n_embd'; did you mean 'model.embed_dim'"),
        ("--config.batch_size=1", "unknown configuration key 'batch_size'; did you mean 'global_batch_size'"),
        (
            "--config.optim.xyz=1",
            "unknown configuration key 'optim.xyz'; the keys of optim are b1, b2, cautious, clip_norm, ",
        ),
        ("--config.seed=None", "--config.seed=None: seed must be a whole number"),
        ("--config.xyz.zzz=1", "unknown configuration key 'xyz.zzz'; 'xyz' is no group of keys"),
        ("--config.seed=x", "--config.seed=x: seed must be a whole number"),
        ("--config.total_steps=1e6", "--config.total_steps=1e6: total_steps must be a whole number"),
        ("--config.total_steps=2.5", "total_steps must be a whole number"),
        ("--config.optim.learning_rate=fast", "optim.learning_rate must be a number"),
        ("--config.log.batch_hash=maybe", "log.batch_hash must be True or False"),
        ("--config.optim=adam", r"optim is a group of keys; set one of them, --config.optim.KEY=VALUE"),
        ("--batch=3", "unknown option --batch; configuration values are given as --config.KEY=VALUE"),
        ("--config.seed", r"^--config\.seed has no value; expected --config\.seed=VALUE"),
        ("--config.data.path", r"--config.data.path has no value; expected --config.data.path=VALUE"),
        (
            "--noconfig.optim.learning_rate",
            r"is not understood \(.*'noconfig.optim.learning_rate'\); expected --config.KEY=VALUE",
        ),
        ("--noconfig.data.shuffle=1", r"is not understood \(--noconfig.data.shuffle=1 does not take an argument\)"),
        ("stray", "'stray' is not understood; values are given as --config.KEY=VALUE"),
    ],
)
def test_wrong_command_lines(load, override, sentence):
    with pytest.raises(UserError, match=sentence):
        load(["config.total_steps = 3"], override)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("seed", (-1, 2**32)),
        ("global_batch_size", (0, -4)),
        ("model.vocab_size", (0,)),
        ("optim.ema_decay", (-0.1, 1.0)),
        ("optim.label_smoothing", (-0.1, 1.0, 1.5, float("nan"))),
        ("optim.z_loss", (-1.0, float("inf"))),
        ("optim.max_skipped_in_a_row", (0,)),
        ("parallel.cpu_devices", (0, -3, 100000)),
        ("parallel.bucket_mb", (0.0, -1.0)),
        ("parallel.init_timeout_secs", (0.0, 1e12)),
        ("parallel.watchdog_secs", (-1.0, 1e12)),
        ("eval.every_steps", (-1,)),
        ("eval.num_batches", (-1,)),
        ("checkpoint.every_steps", (-1,)),
        ("checkpoint.every_minutes", (-0.5, float("nan"))),
        ("checkpoint.keep_latest", (0, -1)),
        ("checkpoint.keep_best", (-1,)),
        ("checkpoint.keep_every_steps", (-1,)),
        ("log.every_steps", (-1,)),
    ],
)
def test_numbers_out_of_their_range_are_refused(load, key, wrong):
    for value in wrong:
        with pytest.raises(UserError, match=rf"^{key}={re.escape(str(value))} must be "):
            load(["config.total_steps = 3"], f"--config.{key}={value}")


def test_patience_without_evaluations_to_count_is_refused(load):
    with pytest.raises(
        UserError, match=r"^eval\.patience=3 counts evaluations, but with eval\.every_steps=0 there is none"
    ):
        load(["config.total_steps = 3"], "--config.eval.patience=3", "--config.eval.every_steps=0")
    load(["config.total_steps = 3"], "--config.eval.every_steps=0")


def test_zero_means_off_or_all(load):
    off = (
        "eval.every_steps", "eval.num_batches", "checkpoint.every_steps", "checkpoint.every_minutes",
        "checkpoint.keep_best", "checkpoint.keep_every_steps", "log.every_steps", "optim.ema_decay",
    )  # fmt: skip
    config = load(["config.total_steps = 3"], *(f"--config.{key}=0" for key in off))
    assert all(value_of(config, key) == 0 for key in off)


def test_the_result_is_locked(load):
    config = load(["config.total_steps = 3"])
    with pytest.raises(AttributeError):
        config.new_key = 1
    with pytest.raises(AttributeError):
        config.optim.new_key = 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def get_config(:\n", r"does not load: SyntaxError in line 1: "),
        ("x = 1\n\n\ny = 1 / 0\n", "does not load: ZeroDivisionError in line 4: division by zero"),
        ("def get_config():\n    return {}['a']\n", "does not load: KeyError in line 2: 'a'"),
        ("import no_such_module_at_all\n", "does not load: ModuleNotFoundError in line 1"),
        ("x = 1\n", r"defines no get_config\(\); see .*configs for examples"),
        ("get_config = 3\n", "does not load: TypeError"),
        ("import sys\n\nsys.exit(0)\n", "does not load: SystemExit in line 3: 0"),
        ("def get_config():\n    pass\n", "must return an ml_collections.ConfigDict, not NoneType"),
        ("def get_config():\n    return {'seed': 1}\n", "must return an ml_collections.ConfigDict, not dict"),
        (
            "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'seed': 1})\n",
            "the configuration lacks causal_lm, checkpoint, classification and more; begin with jaxdp.defaults",
        ),
    ],
)
def test_files_that_do_not_load(tmp_path, text, sentence):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^--config={path}:? .*{sentence}") as refusal:
        load_config(str(path), [])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "config.optim.learning_rat = 1",
            "unknown configuration key 'optim.learning_rat'; did you mean 'optim.learning_rate'?",
        ),
        ("config['optim']['lr'] = 1", "unknown configuration key 'optim.lr'; did you mean 'optim.learning_rate'?"),
        ("config.optim.update({'lr': 1})", "unknown configuration key 'lr'; did you mean 'optim.learning_rate'?"),
        (
            "config.data.length = config.optim.lenght",
            "unknown configuration key 'optim.lenght'; did you mean 'data.length'?",
        ),
        ("config.optimm.learning_rate = 1", "unknown configuration key 'optimm'; did you mean 'optim'?"),
        ("config.seed = 'x'", "seed must be a whole number, not a string."),
        ("config.log.samples = 1.5", "samples must be a whole number, not a number."),
        ("config.optim = 3", "optim must be a group of keys, not a whole number."),
    ],
)
def test_a_mistake_in_a_file_names_file_line_and_key(load, tmp_path, line, sentence):
    with pytest.raises(UserError) as refusal:
        load(["config.total_steps = 3", line])
    assert str(refusal.value) == f"--config={tmp_path / 'config.py'}, line 7: {sentence}"


def test_a_misspelled_key_of_a_group_that_the_file_made_itself(load):
    body = ["config.unlock()", "config.mine = {'rate': 0.5}", "config.lock()", "config.mine.raet = 1"]
    with pytest.raises(UserError, match=r"line 9: unknown configuration key 'mine\.raet'; did you mean 'mine\.rate'\?"):
        load(body)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nothing.py", "there is no such file and no recipe of that name; the recipes are bert_base, "),
        ("quickstrat", r"did you mean the recipe 'quickstart' \(--config=quickstart\)\?"),
        ("/somewhere/configs/imbd.py", "did you mean the recipe 'imdb'"),
        (".", "is a directory"),
    ],
)
def test_a_file_that_is_not_there(path, sentence):
    with pytest.raises(UserError, match=f"--config={path}: .*{sentence}"):
        load_config(path, [])


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("", "--config is empty"),
        ("gs://bucket/config.py", "gs:// is not supported here"),
        ("a\0b", "NUL character"),
        ("~no_such_user_at_all/config.py", "no home directory is known for ~"),
    ],
)
def test_what_is_no_path_at_all(path, sentence):
    with pytest.raises(UserError, match=sentence):
        load_config(path, [])


def test_a_recipe_is_found_from_any_directory_and_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart").data.source == "stdlib"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(HEAD + "    config.total_steps = 5\n    return config\n")
    assert load_config("~/mine.py").total_steps == 5
    (tmp_path / "quickstart").write_text("x = 1")
    with pytest.raises(UserError, match=r"--config=quickstart defines no get_config\(\)"):
        load_config("quickstart")  # a file of that name beats the recipe


def test_the_config_json_of_a_run_is_a_configuration(load, tmp_path):
    saved = load(["config.total_steps = 3", "config.data.path = 'a'"])
    (tmp_path / "config.json").write_text(json.dumps(to_json(parse_config(saved))))
    config = load_config(str(tmp_path / "config.json"), ["--config.total_epochs=2", "--config.data.path=None"])
    assert (config.total_steps, config.total_epochs, config.data.path) == (None, 2.0, None)
    with pytest.raises(UserError, match="did you mean 'total_steps'"):
        load_config(str(tmp_path / "config.json"), ["--config.total_step=2"])


SAMPLES = {int: 3, float: 0.25, str: "text", bool: True, tuple: ("a", "b")}


def test_every_key_survives_json():
    usual = default_values()
    own = {"optim.spike_factor": 2.5, "total_steps": None, "total_tokens": None, "eval.every_steps": 3}
    values = {"total_epochs": 0.25}
    for key, (kind, _) in KEY_TYPES.items():
        group, _, last = key.rpartition(".")
        default = usual[group][last] if group else usual[last]
        value = own.get(key, not default if kind is bool else SAMPLES[kind])
        (values.setdefault(group, {}) if group else values)[last] = value
    config = parse_config(values)
    written = json.loads(json.dumps(to_json(config), allow_nan=False))
    returned = from_json(written)
    assert returned == config and to_json(returned) == written
    for key in KEY_TYPES:
        assert value_of(to_json(config), key) == (
            list(SAMPLES[tuple]) if KEY_TYPES[key][0] is tuple else value_of(values, key)
        ), key


def test_unset_keys_and_tuples_survive_json():
    config = defaults.get_config().unlock()
    config.total_steps, config.data.mixture = 3, ("a", 1)
    config.mine = {"rate": 0.15}
    typed = parse_config(config)
    returned = from_json(json.loads(json.dumps(to_json(typed))))
    assert returned.data.mixture == ("a", 1) and returned.task_groups["mine"] == {"rate": 0.15}
    assert returned.total_epochs is None and returned.model.num_layers is None
    assert to_json(returned) == to_json(typed)
    with pytest.raises(dataclasses.FrozenInstanceError):
        returned.seed = 1


def test_the_dataclasses_have_the_keys_and_types_of_the_defaults():
    usual = defaults.get_config()
    tasks = [name for name in usual if isinstance(usual[name], ConfigDict) and name not in GROUPS]
    of_tasks = {key for key in leaf_keys(usual) if key.partition(".")[0] in tasks}
    assert set(KEY_TYPES) == set(leaf_keys(usual)) - of_tasks
    for key, (kind, may_be_unset) in KEY_TYPES.items():
        *groups, last = key.split(".")
        group = usual[groups[0]] if groups else usual
        kind = object if key in CHOICES_OF_WORDS else kind  # a number or a word
        assert (kind, may_be_unset) == (group.get_type(last), group[last] is None), key


PYTHON_VALUES = (
    ({"total_step": 1}, "config has an unknown key 'total_step'; did you mean 'total_steps'?"),
    ({"total_steps": 1, "data": {"pth": "x"}}, "config has an unknown key 'data.pth'; did you mean 'data.path'?"),
    ({"total_steps": "a"}, "total_steps='a' must be a whole number."),
    ({"total_steps": 1, "microbatch_size": "all"}, "microbatch_size='all' must be a whole number or 'auto'."),
    ({"total_steps": 1, "data": 3}, "data=3 must be a group of keys."),
    ({"total_steps": 1, "seed": {"a": 1}}, "seed={'a': 1} must be a whole number."),
    ({"total_steps": 1, "optim": {"learning_rate": True}}, "optim.learning_rate=True must be a number."),
    ({"total_steps": 1, "optim": {"ema_decay": 1.0}}, "optim.ema_decay=1.0 must be at least 0 and below 1."),
    ({"total_steps": 1, "classification": {"kind": 3}}, "classification.kind=3 must be a string."),
    ({"total_steps": 1, "model": {"num_layers": 2.5}}, "model.num_layers=2.5 must be a whole number."),
    ({3: 4}, "config has the key 3, which must be a string."),
    ({}, "exactly one of total_steps, total_epochs, total_tokens must be set; none is given."),
)


@pytest.mark.parametrize("values, sentence", PYTHON_VALUES)
def test_a_dict_gets_the_checks_of_the_command_line(values, sentence):
    with pytest.raises(UserError) as found:
        parse_config(values)
    assert str(found.value) == sentence


def test_a_changed_copy_is_checked():
    config = parse_config({"total_steps": 1, "data": {"path": "a"}})
    changed = config.replaced(seed=3, data={"length": 8})
    assert (changed.seed, changed.data.length, changed.data.path, config.seed) == (3, 8, "a", 0)
    with pytest.raises(UserError, match=r"data\.length='x' must be a whole number"):
        config.replaced(data={"length": "x"})


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"seed": "x"}', '{"data": 3}', "\xff"])
def test_a_config_json_that_jaxdp_did_not_write(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=f"{path} (cannot be read|is not JSON|holds a JSON list)"):
        read_run_config(path)
    path.unlink()
    with pytest.raises(UserError, match=f"{path} (cannot be read|is not JSON|holds a JSON list)"):
        read_run_config(path)


def test_nearest_by_the_whole_name_or_its_last_part():
    known = ["optim", "optim.learning_rate", "total_steps", "data.length"]
    assert nearest("optim.learning_rat", known) == "; did you mean 'optim.learning_rate'?"
    assert nearest("model.lenght", known) == "; did you mean 'data.length'?"
    assert nearest("learning_rat", known) == "; did you mean 'optim.learning_rate'?"
    assert nearest("xyz", known) == "; the groups and keys are optim, total_steps."
    assert nearest("optim.xyz", known) == "; the keys of optim are learning_rate."


def test_every_default_has_a_comment_and_no_list():
    lines = Path(defaults.__file__).read_text().splitlines()
    assigned = [line for line in lines if line.startswith("    config.") and "ConfigDict()" not in line]
    assert len(assigned) == len(leaf_keys(defaults.get_config()))
    assert [line for line in assigned if "  # " not in line] == []
    config = defaults.get_config()
    assert not any(isinstance(value_of(config, key), list) for key in leaf_keys(config))


SECRET, KEPT = "https://ann:pw@host/a.txt?token=abc", "https://ann:***@host/a.txt?token=***"


def test_secrets_of_urls_are_not_kept():
    config = defaults.get_config()
    config.data.path = SECRET
    config.data.mixture = ({"source": "text", "path": SECRET, "weight": 1.0},)
    config.total_steps = 1
    values = to_json(parse_config(config))
    assert values["data"]["path"] == KEPT and values["data"]["mixture"][0]["path"] == KEPT
    assert config.data.path == SECRET
