"""Bad input gets one readable sentence, exit code 2, and loses nothing."""

import shutil

import pytest
from tiny_runs import assert_refused, contents, train, write_text

from jaxdp import interrupts
from jaxdp.cli.main import main
from jaxdp.report.timeline import read_timeline
from jaxdp.workdir import WorkDir


@pytest.fixture
def refused(config_file, tmp_path, capsys):
    """Trains in a new work directory and returns the sentence of the refusal."""

    def refused(*options, workdir=tmp_path / "run"):
        capsys.readouterr()
        before = contents(workdir) if workdir.is_dir() else {}
        assert train(config_file, workdir, *options) == 2
        if workdir.is_dir():
            assert contents(workdir) == before
        return assert_refused(capsys)

    return refused


@pytest.fixture
def used(trained, tmp_path):
    """The work directory of a finished run, free to be spoilt."""
    return shutil.copytree(trained, tmp_path / "used")


# What is wrong with the command line, and what the sentence must say: where, what was found, what to do.
TABLE = {
    "unknown key": (["--config.optim.xyz=1"], ["unknown configuration key 'optim.xyz'", "the keys of optim are"]),
    "key of another trainer": (["--config.optim.lr=1"], ["unknown configuration key 'optim.lr'; did you mean 'optim.learning_rate'?"]),
    "near key": (["--config.total_step=9"], ["'total_step'", "did you mean 'total_steps'"]),
    "wrong type": (["--config.seed=one"], ["--config.seed=one", "must be a whole number"]),
    "two durations": (["--config.total_steps=3", "--config.total_epochs=1"], ["the command line gives total_steps and total_epochs"]),
    "batch over devices": (
        ["--config.global_batch_size=12"],
        ["global_batch_size=12 does not divide over 8 devices", "1, 2, 3, 4 or 6 devices", "8 or 16"],
    ),
    "tiny batch": (["--config.global_batch_size=4"], ["1, 2 or 4 devices", "global_batch_size of 8"]),
    "microbatch": (["--config.microbatch_size=3"], ["microbatch_size=3", "the 2 examples", "use 1 or 2"]),
    "microbatch in words": (["--config.microbatch_size=all"], ["microbatch_size='all' must be a whole number or 'auto'"]),
    "no microbatch": (["--config.microbatch_size=0"], ["microbatch_size=0", "use 1 or 2"]),
    "heads": (["--config.model.num_heads=3"], ["model.embed_dim = 16", "model.num_heads = 3"]),
    "kv heads": (["--config.model.num_heads=4", "--config.model.num_kv_heads=3"], ["model.num_kv_heads"]),
    "no layers": (["--config.model.num_layers=0"], ["model.num_layers is 0"]),
    "dropout": (["--config.model.dropout_rate=1.0"], ["model.dropout_rate is 1.0", "below 1"]),
    "preset": (["--config.model.preset=gtp2"], ["model.preset is 'gtp2'", "did you mean gpt2"]),
    "norm": (["--config.model.norm=batchnorm"], ["model.norm is 'batchnorm'", "layernorm, rmsnorm"]),
    "task": (["--config.task=causal"], ["task='causal' is unknown", "causal_lm"]),
    "source": (["--config.data.source=tekst"], ["data.source='tekst' is unknown", "stdlib, text, jsonl"]),
    "tokenizer": (["--config.data.tokenizer=bpe"], ["data.tokenizer='bpe' has no vocabulary size", "bpe:8000"]),
    "packing": (["--config.data.packing=box"], ["data.packing='box' is unknown", "cut"]),
    "partition": (["--config.data.partition=half"], ["data.partition='half' is unknown", "block, strided, random"]),
    "errors": (["--config.data.errors=none"], ["data.errors='none' is unknown", "strict or replace"]),
    "length": (["--config.data.length=0"], ["data.length=0 is too short"]),
    "nothing held out": (["--config.data.eval_fraction=0"], ["data.eval_fraction=0.0", "more than 0, less than 1"]),
    "all held out": (["--config.data.eval_fraction=1.5"], ["data.eval_fraction=1.5", "more than 0, less than 1"]),
    "optimizer": (["--config.optim.name=adamm"], ["optim.name is 'adamm'", "adamw"]),
    "schedule": (["--config.optim.schedule=step"], ["optim.schedule is 'step'", "cosine"]),
    "learning rate": (["--config.optim.learning_rate=-1"], ["optim.learning_rate is -1.0", "above 0"]),
    "decay": (["--config.optim.weight_decay=-0.1"], ["optim.weight_decay is -0.1", "0 or above"]),
    "b2": (["--config.optim.b2=1"], ["optim.b2 is 1.0", "below 1"]),
    "clip": (["--config.optim.clip_norm=-1"], ["optim.clip_norm is -1.0"]),
    "smoothing": (["--config.optim.label_smoothing=1.5"], ["optim.label_smoothing=1.5 must be at least 0 and below 1"]),
    "skipped": (["--config.optim.max_skipped_in_a_row=0"], ["optim.max_skipped_in_a_row=0 must be 1 or more"]),
    "sync": (["--config.parallel.sync=zero"], ["parallel.sync='zero' is unknown", "pmean"]),
    "wire": (["--config.parallel.wire_dtype=int2"], ["parallel.wire_dtype='int2' is unknown", "float32 or bfloat16 or int8 or int4"]),
    "int4 without feedback": (
        ["--config.parallel.sync=zero3", "--config.parallel.wire_dtype=int4"],
        ["parallel.wire_dtype=int4 needs error feedback, which is not part of parallel.sync=zero3", "or parallel.sync=pmean or local"],
    ),
    "int8 without feedback": (
        ["--config.parallel.sync=delayed", "--config.parallel.wire_dtype=int8"],
        ["parallel.wire_dtype=int8 needs error feedback", "set parallel.wire_dtype=float32 or bfloat16, or parallel.sync=pmean"],
    ),
    "buckets of blocks": (
        ["--config.parallel.wire_dtype=int8", "--config.parallel.bucket_mb=1.0"], ["parallel.bucket_mb=1.0 has no effect with parallel.wire_dtype=int8"],
    ),
    "delay without delayed": (
        ["--config.parallel.delay_steps=2"],
        ["parallel.delay_steps=2 has no effect with parallel.sync=pmean", "leave it unset, or set parallel.sync=delayed"],
    ),
    "no delay": (["--config.parallel.sync=delayed", "--config.parallel.delay_steps=0"], ["parallel.delay_steps=0 must be 1 or more"]),
    "bfloat16 in shards": (
        ["--config.parallel.sync=zero1", "--config.parallel.wire_dtype=bfloat16"],
        ["parallel.wire_dtype=bfloat16 is not available with parallel.sync=zero1", "set parallel.wire_dtype=float32, or parallel.sync=pmean"],
    ),
    "buckets of shards": (
        ["--config.parallel.sync=zero3", "--config.parallel.bucket_mb=1.0"], ["parallel.bucket_mb=1.0 has no effect with parallel.sync=zero3"],
    ),
    "local steps of pmean": (["--config.parallel.local_steps=4"], ["parallel.local_steps=4 has no effect with parallel.sync=pmean", "parallel.sync=local"]),
    "outer step of zero1": (
        ["--config.parallel.sync=zero1", "--config.parallel.outer_learning_rate=1"],
        ["parallel.outer_learning_rate=1.0 has no effect with parallel.sync=zero1"],
    ),
    "workers": (
        ["--config.parallel.sync=local", "--config.parallel.num_workers=3"],
        ["parallel.num_workers=3 must divide the 8 devices into groups of equal size; use one of 1, 2, 4, 8"],
    ),
    "no workers": (["--config.parallel.sync=local", "--config.parallel.num_workers=0"], ["parallel.num_workers=0 must be 1 or more"]),
    "no local steps": (["--config.parallel.sync=local", "--config.parallel.local_steps=0"], ["parallel.local_steps=0 must be 1 or more"]),
    "fragments": (
        ["--config.parallel.sync=local", "--config.parallel.local_fragments=2"],
        ["parallel.local_fragments=2 must be at most the number of layers (1) and parallel.local_steps=50"],
    ),
    "outer momentum": (["--config.parallel.sync=local", "--config.parallel.outer_momentum=1"], ["parallel.outer_momentum=1.0 must be at least 0 and below 1"]),
    "buckets of blocks of workers": (
        ["--config.parallel.sync=local", "--config.parallel.wire_dtype=int4", "--config.parallel.bucket_mb=1.0"],
        ["parallel.bucket_mb=1.0 has no effect with parallel.wire_dtype=int4"],
    ),
    "metric": (["--config.eval.metric=eval/los"], ["eval.metric='eval/los' is not a metric of task=causal_lm", "eval/loss, "]),
    "batch of none": (["--config.global_batch_size=0"], ["global_batch_size=0 must be 1 or more"]),
    "no epochs": (["--config.total_epochs=0"], ["total_epochs=0.0 must be above 0"]),
    "keep none": (["--config.checkpoint.keep_latest=0"], ["checkpoint.keep_latest=0 must be 1 or more"]),
    "seldom": (["--config.eval.every_steps=-1"], ["eval.every_steps=-1 must be 0 (off) or more"]),
    "no devices": (["--cpu_devices=0"], ["--cpu_devices", "0 is not a number of devices from 1 to 256"]),
    "fewer than no devices": (["--cpu_devices=-3"], ["-3 is not a number of devices from 1 to 256"]),
    "too many devices": (["--cpu_devices=100000"], ["100000 is not a number of devices from 1 to 256"]),
    "half a device": (["--cpu_devices=1.5"], ["1.5 is not a number of devices"]),
    "too many devices in the config": (["--config.parallel.cpu_devices=100000"], ["parallel.cpu_devices=100000 must be from 1 to 256"]),
    "profile": (["--profile=bad"], ["--profile=bad must be STEP:COUNT, both at least 1, such as 20:5"]),
    "profile of none": (["--profile=3:0"], ["--profile=3:0 must be STEP:COUNT"]),
    "resume": (["--resume=maybe"], ["--resume=maybe is unknown; choose one of: auto, must, never"]),
    "must resume": (["--resume=must"], ["--resume=must, but ", "holds no checkpoint; check --workdir"]),
    "option": (["--resum=auto"], ["unknown option --resum; did you mean --resume?"]),
    "strange option": (["--frobnicate"], ["unknown option --frobnicate"]),
    "stray word": (["more"], ["'more' is not understood; options are given as --NAME=VALUE"]),
    "half of processes": (["--num_processes=2"], ["--coordinator, --num_processes and --process_index go together; give all three"]),
    "process index": (
        ["--coordinator=localhost:1", "--num_processes=2", "--process_index=2"],
        ["--process_index=2 must be at least 0 and below --num_processes=2"],
    ),
    "coordinator": (
        ["--coordinator=localhost", "--num_processes=2", "--process_index=0"], ["--coordinator=localhost must be HOST:PORT"],
    ),
    "init_from": (["--config.init_from=/no/where"], ["/no/where is none of these: a work directory, a checkpoint, a Hugging Face folder"]),
    "tokens without a vocabulary": (["--config.data.source=tokens"], ["data.source=tokens needs model.vocab_size"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_wrong_values(refused, case):
    options, fragments = TABLE[case]
    sentence = refused(*options)
    assert all(fragment in sentence for fragment in fragments), sentence
    assert "\n" not in sentence


DATA = {
    "missing": (lambda path: None, ["data.path", "does not exist"]),
    "empty": (lambda path: path.write_text(""), ["data.path", "is empty"]),
    "a letter": (lambda path: path.write_text("x"), ["data.eval_fraction", "leaves nothing"]),
    "short": (lambda path: path.write_text("far too short"), ["The training split has 11 tokens", "which takes 17 or more", "data.length"]),
    "binary": (lambda path: path.write_bytes(bytes(range(256)) * 9), ["has a NUL character at offset 0", "a binary file cannot be read"]),
    "utf-16": (lambda path: path.write_text("the cat sat on a mat\n" * 300, "utf-16-le"), ["a NUL character at offset 1", "set data.encoding=utf-16-le"]),
    "no text": (lambda path: path.write_bytes(bytes(range(1, 256)) * 9), ["is not UTF-8 text: byte 0x80 at offset 127", "data.errors=replace"]),
    "empty folder": (lambda path: path.mkdir(), ["matches no file"]),
    "folder of empty files": (lambda path: (path.mkdir(), (path / "a").touch()), ["is empty, and no other file has text"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_wrong_data(refused, tmp_path, case):
    make, fragments = DATA[case]
    make(tmp_path / "data.txt")
    sentence = refused(f"--config.data.path={tmp_path / 'data.txt'}")
    assert all(fragment in sentence for fragment in fragments), sentence
    assert "\n" not in sentence


def test_too_little_held_out(refused, tmp_path):
    (tmp_path / "data.txt").write_text("x" * 30)
    sentence = refused(f"--config.data.path={tmp_path / 'data.txt'}", "--config.data.eval_fraction=0.03")
    assert "The evaluation split has 1 tokens" in sentence and "which takes 2 or more" in sentence


def test_no_duration(config_file, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(config_file.read_text().replace("config.total_steps = 6", "config.total_steps = None"))
    assert train(path, tmp_path / "run") == 2
    sentence = assert_refused(capsys)
    assert sentence == "exactly one of total_steps, total_epochs, total_tokens must be set; none is given."
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_work_directory_that_cannot_be_written(refused, tmp_path, below):
    (tmp_path / "file").write_text("precious")
    sentence = refused(workdir=tmp_path / "file" / below)
    assert f"--workdir={tmp_path / 'file' / below}".rstrip("/") in sentence and "cannot be a directory" in sentence
    assert (tmp_path / "file").read_text() == "precious"


RESUMES = {
    "model": (["--config.model.embed_dim=32"], ["model.embed_dim: 16 in the run, 32 now", "model.mlp_dim: 64 in the run, 128 now"]),
    "preset": (["--config.model.preset=gpt2"], ["model.preset: 'nano' in the run, 'gpt2' now"]),
    "length": (["--config.data.length=8"], ["data.length: 16 in the run, 8 now"]),
    "optimizer": (["--config.optim.name=lion"], ["optim.name: 'adamw' in the run, 'lion' now"]),
    "seed": (["--config.seed=1"], ["seed: 0 in the run, 1 now"]),
    "batch": (["--config.global_batch_size=32"], ["global_batch_size: 16 in the run, 32 now"]),
}  # fmt: skip


@pytest.mark.parametrize("case", RESUMES)
def test_a_resume_that_changes_the_run(refused, used, case):
    options, fragments = RESUMES[case]
    sentence = refused(*options, "--config.total_steps=9", workdir=used)
    assert sentence.startswith(f"--workdir={used} holds a run of another configuration:\n")
    assert all(f"  {fragment}\n" in sentence for fragment in fragments), sentence
    assert sentence.endswith("Use another --workdir for a new run, or the values that it was trained with.")


def test_a_resume_on_changed_data(refused, config_file, used, tmp_path):
    write_text(tmp_path / "other.txt", seed=1)
    sentence = refused(f"--config.data.path={tmp_path / 'other.txt'}", "--config.total_steps=9", workdir=used)
    assert "trained on other data than this run has" in sentence
    assert "fingerprint: " in sentence and " in the checkpoint, " in sentence and " now" in sentence


def test_moved_data_is_the_same_data(config_file, used, tmp_path, capsys):
    moved = tmp_path / "elsewhere.txt"
    shutil.copy(config_file.parent / "text.txt", moved)
    code = train(config_file, used, f"--config.data.path={moved}")
    assert code == 0 and "has finished its 6 steps" in capsys.readouterr().err


def test_a_run_continues_without_its_config_file(used, capsys):
    assert main(["train", f"--workdir={used}", "--config.total_steps=8"]) == 0
    said = capsys.readouterr().err
    assert "resuming from checkpoint 6 of 8 steps" in said and "finished 8 steps" in said
    assert main(["train", f"--workdir={used}"]) == 0
    assert "has finished its 8 steps" in capsys.readouterr().err


def test_the_config_json_of_a_run_starts_another(used, tmp_path, capsys):
    assert main(["train", f"--config={used / 'config.json'}", f"--workdir={tmp_path / 'other'}"]) == 0
    assert "finished 6 steps" in capsys.readouterr().err
    assert (tmp_path / "other" / "config.json").read_text() == (used / "config.json").read_text()


def test_never_resume_where_checkpoints_are(refused, used):
    sentence = refused("--resume=never", workdir=used)
    assert f"--resume=never, but --workdir={used} holds checkpoints 3, 6; use another --workdir" in sentence


def test_a_second_run_in_a_work_directory_in_use(refused, used):
    with WorkDir(used).locked():
        sentence = refused(workdir=used)
    assert f"--workdir={used} is in use by process " in sentence


@pytest.mark.parametrize("command", ["eval", "generate"])
@pytest.mark.parametrize("holds", ["nothing", "no checkpoint", "no run"])
def test_without_a_checkpoint(used, tmp_path, capsys, command, holds):
    workdir = tmp_path / "nothing"
    if holds != "nothing":
        workdir = used
        shutil.rmtree(used / "checkpoints")
    if holds == "no run":
        (used / "config.json").unlink()
    assert main([command, f"--workdir={workdir}", *(["--prompt=x"] if command == "generate" else [])]) == 2
    sentence = assert_refused(capsys)
    assert str(workdir) in sentence
    if holds == "no checkpoint":
        assert "neither a work directory with checkpoints nor a checkpoint" in sentence
    else:
        assert "holds no run (config.json is missing): train into it first, or check the path" in sentence


GENERATE = {
    "long prompt": (["--prompt=" + "word" * 4], ["the prompt has 16 tokens", "context is 16 (data.length)", "shorten it to 15"]),
    "no prompt": ([], ["the following arguments are required: --prompt"]),
    "no tokens": (["--prompt=a", "--max_new_tokens=0"], ["--max_new_tokens=0 must be at least 1"]),
    "room": (["--prompt=a", "--num_beams=2", "--max_new_tokens=16", "--cpu_devices=8"], ["--max_new_tokens=16 with --num_beams", "leaves room for"]),
    "search and draw": (["--prompt=a", "--num_beams=2", "--temperature=1"], ["give one or the other"]),
    "temperature": (["--prompt=a", "--temperature=-1"], ["--temperature=-1.0 must be 0 (greedy) or more"]),
    "top_k": (["--prompt=a", "--top_k=-1"], ["--top_k=-1 must be 0 (off) or more"]),
    "top_p": (["--prompt=a", "--top_p=0"], ["--top_p=0.0 must be above 0 and at most 1"]),
    "seed": (["--prompt=a", "--seed=-1"], ["--seed=-1 is out of range"]),
    "last seed": (["--prompt=a", "--seed=4294967295", "--num_samples=2"], ["--seed=4294967295"]),
    "step": (["--prompt=a", "--step=5"], ["--step=5: ", "has no such checkpoint; it has 3, 6"]),
    "weights": (["--prompt=a", "--weights=best"], ["--weights", "'best'"]),
    "number": (["--prompt=a", "--top_k=few"], ["--top_k", "'few'"]),
    "option": (["--prompt=a", "--temprature=1"], ["unknown option --temprature; did you mean --temperature?"]),
}  # fmt: skip


@pytest.mark.parametrize("case", GENERATE)
def test_wrong_requests_to_generate(trained, capsys, case):
    options, fragments = GENERATE[case]
    assert main(["generate", f"--workdir={trained}", *options]) == 2
    sentence = assert_refused(capsys)
    assert all(fragment in sentence for fragment in fragments), sentence


EMPTY = {
    "--workdir": ["eval", "--workdir="],
    "--config": ["prepare", "--config="],
    "DIR": ["plot", ""],
}
"""Option without a value -> a command."""


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["trian"], ["unknown command 'trian'; did you mean 'train'?"]),
        (
            ["submit"],
            [
                "unknown command 'submit'; choose one of: train, eval, generate, predict, inspect, import, export, prepare, plot, compare, plan, bench, devices"
            ],
        ),
        (["train"], ["the following arguments are required: --workdir; see jaxdp train --help"]),
        (
            ["train", "--workdir=x"],
            ["--config is missing, and --workdir=x holds no run to continue", "give --config=FILE"],
        ),
        (["train", "--config=quickstart", "--workdir="], ["--workdir is empty; expected the path"]),
        (
            ["train", "--config=quickstart", "--workdir=hdfs://bucket/x"],
            ["--workdir=hdfs://bucket/x: hdfs:// is not supported; expected a local path, s3://BUCKET/NAME or gs://"],
        ),
        (
            ["eval", "--workdir=az://bucket/x"],
            ["--workdir=az://bucket/x: az:// is not supported; expected a local path, s3://BUCKET/NAME"],
        ),
        (["generate", "--workdir=~no_such_user_at_all/x", "--prompt=a"], ["no home directory is known for ~"]),
        (["train", "--config=nothing.py", "--workdir=x"], ["--config=nothing.py: there is no such file"]),
        (["eval", "--workdir=x", "--split=tset"], ["--split", "'tset'"]),
        (["eval", "--workdir=x", "--stepp=3"], ["unknown option --stepp; did you mean --step?"]),
        (["inspect"], ["the following arguments are required: PATH"]),
        (["inspect", "x", "y"], ["'y' is not understood"]),
        (["devices", "--cpu_devices=many"], ["many is not a number of devices"]),
        (["plot"], ["the following arguments are required: DIR"]),
        (["plot", "nowhere"], ["nowhere"]),
        (["compare", "x"], ["the following arguments are required: RUN_B"]),
        (["compare", "nowhere", "nowhere"], ["RUN_A=nowhere holds no run (config.json is missing)"]),
        (["compare", "", "x"], ["RUN_A is empty"]),
        (
            ["plot", "az://bucket/run"],
            ["DIR=az://bucket/run: az:// is not supported; expected a local path, s3://BUCKET/NAME"],
        ),
        (["train", "--config=", "--workdir=x"], ["--config is empty; expected the path"]),
        (["bench", "--config="], ["--config is empty"]),
        (["generate", "--workdir=", "--prompt=a"], ["--workdir is empty"]),
        (["predict", "--workdir=", "--text=a"], ["--workdir is empty"]),
        (["plot", "nowhere", "--out="], ["--out is empty"]),
        (["inspect", ""], ["PATH is empty"]),
        *(
            (arguments, [f"{name} is empty; expected the path of a file or directory."])
            for name, arguments in EMPTY.items()
        ),
        (["inspect", "~no_such_user_at_all"], ["PATH=~no_such_user_at_all: no home directory is known for ~"]),
        (["bench", "--config=nothing.py"], ["--config=nothing.py: there is no such file"]),
    ],
)
def test_wrong_commands(tmp_path, monkeypatch, capsys, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    sentence = assert_refused(capsys)
    assert all(fragment in sentence for fragment in fragments), sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--steps=3"], "--steps=3 is too few to time; expected at least 10"),
        (["--devices=1,two"], "--devices=1,two must be device counts such as 1,2,4"),
        (
            ["--devices=0"],
            "--devices=0 must be device counts such as 1,2,4: 0 is not a number of devices from 1 to 256",
        ),
        (["--compare=parallel.sync=pmean"], "--compare=parallel.sync=pmean must name a key and different values"),
        (["--compare=seed=1,1"], "--compare=seed=1,1 must name a key and different values"),
        (["--compare=parallel.cpu_devices=1,2"], "cannot change the devices of a process; use --devices=1,2"),
        (["--compare=optim.nmae=adamw,sgd"], "optim.nmae"),
        (["--trace", "--memory"], "not allowed with argument --trace"),
        (["--devices=1,3"], "global_batch_size=16 does not divide over 3 devices"),
    ],
)
def test_wrong_requests_to_bench(config_file, capsys, options, fragment):
    assert main(["bench", f"--config={config_file}", *options]) == 2
    assert fragment in assert_refused(capsys)


def test_the_timeline_of_a_run_has_its_refused_commands(used, config_file, monkeypatch):
    monkeypatch.setattr(interrupts, "command_start", lambda: 5.0)
    before = read_timeline(WorkDir(used).timeline)
    assert train(config_file, used, "--config.sed=1") == 2
    [line] = read_timeline(WorkDir(used).timeline)[len(before) :]
    assert (line["event"], line["begin"]) == ("refused", 5.0)
    assert train(config_file, used, "--config.sed=1", "--dry_run") == 2
    assert train(config_file, "s3://bucket/run", "--config.sed=1") == 2
    assert len(read_timeline(WorkDir(used).timeline)) == len(before) + 1
