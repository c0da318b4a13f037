"""launch/slurm.sh with fake SLURM commands: one process per node or GPU, SIGTERM, requeuing and exit codes."""

import shlex
import shutil
import signal
import time

import pytest
from fake_machine import HARD, SOURCE

SRUN = """
printf '%s\\n' "srun [$JAX_LOCAL_DEVICE_IDS] $*" >>{state}/log
case {code} in
  term) trap 'exit 75' USR2; echo $$ >{state}/srun; while :; do sleep 0.05; done ;;
esac
exit {code}"""
# scancel reaches the tasks of a running job only.
SCANCEL = """
printf '%s\\n' "scancel $*" >>{state}/log
[ {job} = RUNNING ] || exit 1
read -r pid <{state}/srun; kill -USR2 "$pid"
"""


TRAIN = ("--config=c.py", "--workdir=w")


@pytest.fixture
def slurm(machine):
    """Starts slurm.sh as a job whose srun ends with a code; `log` has what was called."""

    def start(code, *options, job="RUNNING", **variables):
        values = {"state": machine.state, "code": code, "job": job}
        machine.python("python3.12")
        machine.script("srun", SRUN.format(**values))
        machine.script("scancel", SCANCEL.format(**values))
        machine.script("scontrol", 'printf "%s\\n" "scontrol $*" >>{state}/log'.format(**values))
        machine.script("squeue", '[ "$*" = "--noheader --format=%T --jobs=17" ] && echo {job}'.format(**values))
        spooled = machine.root / "spool/slurm_script"  # where SLURM keeps its copy
        spooled.parent.mkdir(exist_ok=True)
        shutil.copy(SOURCE / "launch/slurm.sh", spooled)
        variables = {"SLURM_SUBMIT_DIR": str(machine.repository), "SLURM_JOB_ID": "17"} | variables
        return machine.start(str(spooled), *options, "--", "train", *TRAIN, cwd=machine.root, **variables)

    return start


def calls(machine):
    return (machine.state / "log").read_text().splitlines()


GRACE = "--config.checkpoint.grace_secs"
STEP = f"--label --cpu-bind=none --kill-on-bad-exit=0 --wait=300 jaxdp train --config=c.py --workdir=w {GRACE}=300"


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (2, False), (3, False), (70, True), (75, True), (137, True), (143, True)]
)
def test_a_process_has_all_gpus_of_a_node_and_what_can_go_on_is_requeued(slurm, machine, code, again):
    process = slurm(code, SLURM_GPUS_ON_NODE="4")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert calls(machine) == [f"srun [0,1,2,3] {STEP}"] + ["scontrol requeue 17"] * again


@pytest.mark.parametrize(("gpus", "tasks"), [("0", "1"), ("4", "4"), ("", "3")])
def test_without_gpus_or_with_one_task_a_gpu_the_devices_are_left_to_jax(slurm, machine, gpus, tasks):
    process = slurm(0, SLURM_GPUS_ON_NODE=gpus, SLURM_NTASKS_PER_NODE=tasks)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert calls(machine) == [f"srun [] {STEP}"]


def test_another_number_of_tasks_is_refused(slurm):
    process = slurm(0, SLURM_GPUS_ON_NODE="8", SLURM_NTASKS_PER_NODE="2")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr == "jaxdp: --ntasks-per-node=2 must be 1 or the number of GPUs of a node, which is 8\n"


@pytest.mark.parametrize(("job", "again"), [("RUNNING", True), ("COMPLETING", False)])
def test_sigterm_before_the_time_limit_requeues_and_a_cancelled_job_ends(slurm, machine, job, again):
    process = slurm("term", job=job)
    srun, end = machine.state / "srun", time.monotonic() + 60
    while not srun.exists() or not srun.read_text():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    if job != "RUNNING":  # SLURM itself sends SIGTERM to the tasks
        machine.evaluate(f"kill -USR2 {srun.read_text()}")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert calls(machine)[1:] == ["scancel --signal=TERM 17"] + ["scontrol requeue 17"] * again


@pytest.mark.parametrize(("code", "count", "again"), [(70, 2, True), (70, 3, False), (137, 9, False), (75, 99, True)])
def test_failures_are_requeued_a_limited_number_of_times(slurm, machine, code, count, again):
    process = slurm(code, "--restarts=3", SLURM_RESTART_COUNT=str(count))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("scontrol requeue 17" in calls(machine)) == again
    assert (f"the job was requeued {count} times, and --restarts=3" in stderr) != again


def test_the_job_asks_for_one_process_a_node_and_time_to_save():
    text = (SOURCE / "launch/slurm.sh").read_text()
    options = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--ntasks-per-node=1", "--signal=B:TERM@300", "--requeue", "--open-mode=append"} <= set(options)
    assert not any(option.startswith("--gpus-per-task") for option in options)
    [secs] = [option.rpartition("@")[2] for option in options if option.startswith("--signal")]
    assert f"{GRACE}={secs}" in STEP


def test_a_grace_period_of_the_user_stays(machine):
    machine.python("python3.12")
    for given in ([f"{GRACE}=60"], [GRACE, "60"]):
        result = machine.run("launch/slurm.sh", "--dry_run", "--", "train", *TRAIN, *given)
        assert shlex.split(result.stdout.splitlines()[-1])[-len(given) :] == given
        assert result.stdout.count(GRACE) == 1


def test_a_dry_run_prints_the_step_and_when_it_is_requeued(machine):
    machine.python("python3.12")
    arguments = ["--dry_run", "--", "train", *TRAIN]
    result = machine.run("launch/slurm.sh", *arguments, SLURM_GPUS_ON_NODE="2")
    assert result.returncode == 0, result.stderr
    expected = f"env JAX_LOCAL_DEVICE_IDS=0,1 srun {STEP}"
    assert shlex.split(result.stdout.splitlines()[-1]) == expected.split()
    assert "after exit code 75, and up to 10 times after 70, 134, 137 and 143: scontrol requeue JOB" in result.stderr
    outside = machine.run("launch/slurm.sh", *arguments).stdout.splitlines()[-1]  # as the script requests
    assert shlex.split(outside) == f"env JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7 srun {STEP}".split()


@pytest.mark.parametrize(
    ("has_srun", "message"),
    [
        (False, "jaxdp: srun is not on the PATH of this machine: submit this script with sbatch on a SLURM cluster\n"),
        (True, "jaxdp: this is no SLURM job: submit this script with sbatch\n"),
    ],
)
def test_outside_of_slurm_it_says_what_it_needs(machine, has_srun, message):
    if has_srun:
        machine.script("srun", "exit 0")
    result = machine.run("launch/slurm.sh", "--", "train", *TRAIN)
    assert (result.returncode, result.stderr) == (2, message)


def test_sbatch_outside_of_the_repository_is_refused(machine):
    result = machine.run("launch/slurm.sh", "--", "train", SLURM_SUBMIT_DIR=str(machine.root))
    assert result.returncode == 2
    assert result.stderr == f"jaxdp: {machine.root} is not the repository; run sbatch in its root\n"


def test_arguments_reach_every_task_unchanged(slurm, machine):
    machine.python("python3.12")
    machine.script("srun", 'while [ $1 != jaxdp ]; do shift; done; exec "$@"')
    arguments = ["--", "train", "--workdir=w", *HARD]
    variables = {"SLURM_SUBMIT_DIR": str(machine.repository), "SLURM_JOB_ID": "17"}
    result = machine.run("launch/slurm.sh", *arguments, **variables)
    assert result.returncode == 0, result.stderr
    assert machine.calls()[-1] == ["jaxdp", "train", "--workdir=w", *HARD, f"{GRACE}=300"]
    line = machine.run("launch/slurm.sh", "--dry_run", *arguments, **variables).stdout.split("PATH\n")[1]
    words = machine.evaluate(f"printf '%s\\037' {line}").stdout.split("\x1f")
    assert words[0] == "srun" and words[-5:-2] == HARD
