"""launch/gke.sh: the JobSet that it renders, read as YAML, and the arguments as Kubernetes expands them."""

import os
import re

import pytest
import yaml
from fake_machine import HARD, SOURCE

IMAGE = "--image=registry/jaxdp:1"
TRAIN = ["--", "train", "--config=quickstart", "--workdir=/runs/quickstart"]
GRACE = "--config.checkpoint.grace_secs"


def render(machine, *options, command=tuple(TRAIN)):
    result = machine.run("launch/gke.sh", IMAGE, *options, *command)
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout)


def parts(job_set):
    """The Job and the pod of the only replicated job, and its only container."""
    [workers] = job_set["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    return job, pod, container


def expanded(arguments, **variables):
    """Arguments as the kubelet expands them: $$ is $, and $(NAME) is a variable if it exists."""

    def value(match):
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return [re.sub(r"\$\$|\$\(([^)]*)\)", value, argument) for argument in arguments]


def test_a_run_on_gpus_has_one_process_a_node(machine):
    job_set = render(machine, "--gpu=nvidia-h100-80gb:8", "--hosts=4", "--name=my-run", "--claim=runs", "--spot")
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert job_set["metadata"] == {"name": "my-run"}
    job, pod, container = parts(job_set)
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] == 4
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
        "cloud.google.com/gke-spot": "true",
    }
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    assert (container["image"], container["command"]) == ("registry/jaxdp:1", ["jaxdp"])
    assert expanded(container["args"], JOB_COMPLETION_INDEX="3") == [
        *TRAIN[1:], f"{GRACE}=15", "--coordinator=my-run-workers-0-0.my-run:8476", "--num_processes=4", "--process_index=3",
    ]  # fmt: skip
    assert job_set["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert mounts == {"shared-memory": "/dev/shm", "runs": "/runs"}
    assert volumes == {
        "shared-memory": {"emptyDir": {"medium": "Memory"}},
        "runs": {"persistentVolumeClaim": {"claimName": "runs"}},
    }


@pytest.mark.parametrize(
    ("tpu", "hosts", "chips"),
    [
        ("tpu-v5-lite-podslice:4x4", 4, 4),
        ("tpu-v5p-slice:2x2x4", 4, 4),
        ("tpu-v6e-slice:2x4:8", 1, 8),
        ("tpu-v5-lite-podslice:2x2", 1, 4),
    ],
)
def test_the_topology_of_a_tpu_gives_the_number_of_nodes(machine, tpu, hosts, chips):
    job, pod, container = parts(render(machine, f"--tpu={tpu}"))
    kind, topology = tpu.split(":")[:2]
    assert job["completions"] == job["parallelism"] == hosts
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": kind,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    assert container["resources"] == {"limits": {"google.com/tpu": chips}}
    assert f"--num_processes={hosts}" in container["args"]
    assert any(argument.startswith("--coordinator=") for argument in container["args"]) == (hosts > 1)


def test_exit_codes_decide_what_starts_again(machine):
    job_set = render(machine, "--gpu=a:1", "--grace=120", "--restarts=7")
    job, pod, _ = parts(job_set)
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy requires
    assert (job["backoffLimit"], pod["terminationGracePeriodSeconds"]) == (0, 120)
    policy = job_set["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    [rule] = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])

    def action(code):
        """The first rule that matches an exit code, as Kubernetes applies them."""
        for rule in job["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes")
            if codes and (code in codes["values"]) == (codes["operator"] == "In"):
                return rule["action"]
        return "Count"

    expected = {75: "Ignore", 143: "Ignore", 70: "Count", 134: "Count", 137: "Count", 2: "FailJob", 3: "FailJob"}
    assert {code: action(code) for code in expected} == expected
    # A disrupted pod must not count, whatever its exit code, so its rule comes before those that do.
    actions = [(rule["action"], rule.get("onPodConditions")) for rule in job["podFailurePolicy"]["rules"]]
    disrupted = actions.index(("Ignore", [{"type": "DisruptionTarget", "status": "True"}]))
    assert all(action == "Ignore" for action, _ in actions[:disrupted])


def test_arguments_reach_jaxdp_unchanged(machine):
    hard = [*HARD, "a\tb", "- x: {y}", "$$(PATH)", "--config.x=$(JOB_COMPLETION_INDEX) #", "größe"]
    command = [*TRAIN, *hard]
    _, _, container = parts(render(machine, "--gpu=a:1", command=command))
    arguments = expanded(container["args"], JOB_COMPLETION_INDEX="5", PATH="/bin", date="now")
    assert arguments == [*command[1:], f"{GRACE}=300", "--num_processes=1"]


@pytest.mark.parametrize(
    ("options", "given", "pod_secs", "told"),
    [
        ([], [], 300, [f"{GRACE}=300"]),
        (["--grace=120"], [], 120, [f"{GRACE}=120"]),
        (["--spot"], [], 300, [f"{GRACE}=15"]),
        (["--spot", "--grace=100"], [], 100, [f"{GRACE}=100"]),
        (["--grace=120"], [f"{GRACE}=7"], 120, [f"{GRACE}=7"]),
        (["--spot"], [GRACE, "7"], 300, [GRACE]),
        ([], [f"{GRACE}_x=7"], 300, [f"{GRACE}_x=7", f"{GRACE}=300"]),
    ],
)
def test_the_run_is_told_how_long_a_pod_has_to_save(machine, options, given, pod_secs, told):
    _, pod, container = parts(render(machine, "--gpu=a:1", *options, command=[*TRAIN, *given]))
    assert pod["terminationGracePeriodSeconds"] == pod_secs
    assert [argument for argument in container["args"] if argument.startswith(GRACE)] == told


@pytest.mark.parametrize(
    ("workdir", "options", "message"),
    [
        ("/runs/a", ["--claim=runs"], ""),
        ("gs://bucket/a", [], ""),
        (
            "/runs/a",
            [],
            "--workdir=/runs/a is lost with its pod: give --claim=CLAIM, a volume that is mounted at /runs",
        ),
        ("runs/a", ["--claim=runs"], "--workdir=runs/a is lost with its pod: give --claim=CLAIM and a DIR below /runs"),
    ],
)
def test_a_work_directory_inside_the_container_is_told(machine, workdir, options, message):
    result = machine.run("launch/gke.sh", IMAGE, "--gpu=a:1", *options, "--", "train", f"--workdir={workdir}")
    assert result.returncode == 0 and result.stderr == (f"jaxdp: {message}\n" if message else "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu=a:1"], "--image=IMAGE is missing"),
        ([IMAGE], "give one of --gpu=TYPE:COUNT and --tpu=TYPE:TOPOLOGY"),
        ([IMAGE, "--gpu=a:1", "--tpu=b:2x2"], "give one of --gpu=TYPE:COUNT and --tpu=TYPE:TOPOLOGY"),
        ([IMAGE, "--gpu=a"], "--gpu=a must be TYPE:COUNT"),
        ([IMAGE, "--tpu=b:4"], "--tpu=b:4 must be TYPE:TOPOLOGY"),
        ([IMAGE, "--tpu=b:2x3"], "--tpu=b:2x3 has 6 chips, which 4 chips per node do not divide"),
        ([IMAGE, "--tpu=b:2x2", "--hosts=2"], "--hosts follows from the topology"),
        ([IMAGE, "--gpu=a:1", "--hosts=0"], "--hosts=0 must be a whole number of at least 1"),
        ([IMAGE, "--gpu=a:1", "--name=My_run"], "--name=My_run must be up to 40 lower-case letters"),
        ([IMAGE, "--gpu=a:1", "--grace=long"], "--grace=long must be a whole number"),
        ([IMAGE, "--gpu=a:1", "--grace="], "--grace= must be a whole number"),
        ([IMAGE, "--gpu=a:1", "--cpus=1"], "expected an option or -- before the arguments of jaxdp, found --cpus=1"),
    ],
)
def test_mistakes_are_one_sentence(machine, options, message):
    result = machine.run("launch/gke.sh", *options, *TRAIN)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_control_characters_cannot_be_given(machine):
    result = machine.run("launch/gke.sh", IMAGE, "--gpu=a:1", *TRAIN, "--config.x=\x1b[1m")
    assert (result.returncode, result.stdout) == (2, "")
    assert "control characters cannot be given to a pod" in result.stderr


def test_apply_gives_the_same_text_to_kubectl(machine):
    options = [IMAGE, "--gpu=a:1", "--apply", *TRAIN]
    missing = machine.run("launch/gke.sh", *options)
    assert missing.returncode == 2
    assert "kubectl is not on the PATH of this machine: install it and run gcloud container" in missing.stderr
    printed = machine.run("launch/gke.sh", IMAGE, "--gpu=a:1", *TRAIN).stdout
    machine.script("kubectl", 'echo "$@"; cat')
    assert machine.run("launch/gke.sh", *options).stdout == f"apply -f -\n{printed}"
    dry = machine.run("launch/gke.sh", "--dry_run", *options)
    assert dry.stdout == f"kubectl apply -f - <<'EOF'\n{printed}EOF\n"


def test_the_template_is_yaml_with_known_placeholders(machine):
    text = (SOURCE / "launch/gke.yaml").read_text()
    assert yaml.safe_load(text)["metadata"]["name"] == "@NAME@"
    rendered = machine.run("launch/gke.sh", IMAGE, "--gpu=a:1", *TRAIN).stdout
    assert "@" in text and "@" not in rendered
    (machine.repository / "launch/gke.yaml").write_text('x: "@OTHER@"\n')
    result = machine.run("launch/gke.sh", IMAGE, "--gpu=a:1", *TRAIN)
    assert (result.returncode, result.stdout) == (2, "")
    assert "unknown placeholder @OTHER@" in result.stderr


def test_the_template_is_found_from_any_directory(machine):
    assert os.fspath(machine.root) != os.fspath(machine.repository)
    result = machine.run("launch/gke.sh", IMAGE, "--gpu=a:1", *TRAIN, cwd=machine.root)
    assert result.returncode == 0, result.stderr
