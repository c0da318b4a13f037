"""Cluster detection: number of processes, index and coordinator address under SLURM, Open MPI, Cloud TPU and Kubernetes.

SLURM, Open MPI and Cloud TPU set environment variables; a Cloud TPU machine after a
login has a metadata server; in Kubernetes the API server knows the size of an indexed
Job. JAX detects most of this too, but only while it connects, which is too late to
report missing processes.
"""

import glob
import http.client
import json
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxdp.errors import UserError
from jaxdp.parallel.addresses import checked_address, is_loopback
from jaxdp.parallel.processes import ALONE, Processes

TPU_PORT = 8476
"""Port of process 0 in Cloud TPU slices and Kubernetes Jobs."""

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_GOOGLE_VENDOR = "0x1ae0"
_METADATA_SECS = 5.0
_MAX_ANSWER_BYTES = 2**20

Fetch = Callable[[str], str | None]
"""Function: name of a metadata attribute -> its text, None if it does not exist."""


def cluster_processes(environment: Mapping[str, str] = os.environ) -> Processes | None:
    """Detects the processes that a cluster started together with this one; None for a single process.

    JAX_COORDINATOR_ADDRESS and JAX_COORDINATOR_PORT take precedence over the address of
    the cluster.

    Raises:
        UserError: There are several processes and the address of process 0 is unknown.
    """
    for find in (_slurm, _open_mpi, _cloud_tpu, _kubernetes):
        processes = find(environment)
        if processes is not None:
            return _with_address(processes, environment) if processes.num_processes > 1 else None
    return None


def check_coordinator(processes: Processes, environment: Mapping[str, str] = os.environ) -> None:
    """Checks that processes on several machines have an address that all of them can reach.

    Raises:
        UserError: The address is missing, or it is a loopback address and there are several machines.
    """
    if processes.num_processes > 1 and not processes.coordinator:
        raise UserError(
            f"{processes.num_processes} processes need the address of process 0: give --coordinator=HOST:PORT."
        )
    num_machines = _num_machines(processes, environment)
    if num_machines > 1 and is_loopback(processes.coordinator):
        raise UserError(
            f"--coordinator={processes.coordinator} leads every machine to itself, but the {processes.num_processes} "
            f"processes run on {num_machines} machines; give the name or number of the machine of process 0."
        )


def _with_address(processes: Processes, environment: Mapping[str, str]) -> Processes:
    address = environment.get("JAX_COORDINATOR_ADDRESS") or processes.coordinator
    if not address:
        raise UserError(
            f"process {processes.process_index} of {processes.num_processes} has its index from the cluster, but "
            "no address of process 0; set JAX_COORDINATOR_ADDRESS=HOST:PORT for all of them."
        )
    if environment.get("JAX_COORDINATOR_PORT"):
        port = _number(environment, "JAX_COORDINATOR_PORT", 0, minimum=1, maximum=65535)
        address = f"{address.rpartition(':')[0] or address}:{port}"
    if environment.get("JAX_COORDINATOR_ADDRESS"):
        checked_address(address, "JAX_COORDINATOR_ADDRESS")
    return Processes(processes.num_processes, processes.process_index, address)


def _num_machines(processes: Processes, environment: Mapping[str, str]) -> int:
    if "SLURM_PROCID" in environment:
        name = "SLURM_STEP_NUM_NODES" if environment.get("SLURM_STEP_NUM_NODES") else "SLURM_NNODES"
        return _number(environment, name, 1, minimum=1)
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment:
        local = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 1, minimum=1)
        return -(-processes.num_processes // local)
    if "JOB_COMPLETION_INDEX" in environment and "KUBERNETES_SERVICE_HOST" in environment:
        return processes.num_processes  # pods share no loopback
    return max(len(_tpu_hosts(environment)), 1)


def _number(
    environment: Mapping[str, str], name: str, default: int, minimum: int = 0, maximum: int | None = None
) -> int:
    """Reads a whole number from the environment; `default` if the variable is missing or empty.

    Raises:
        UserError: The value is not a number in the range.
    """
    text = (environment.get(name) or str(default)).strip()
    value = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
    if value is None or value < minimum or (maximum is not None and value > maximum):
        limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise UserError(
            f"the environment variable {name} must be a whole number {limits}, found {text[:80]!r}: it is set by "
            "the cluster; give --coordinator, --num_processes and --process_index to do without it."
        )
    return value


def _index(environment: Mapping[str, str], name: str, size: int) -> int:
    """Reads the index of this process, or of a slice, from 0 to `size` - 1."""
    return _number(environment, name, 0, maximum=size - 1)


def _slurm(environment: Mapping[str, str]) -> Processes | None:
    size = _number(environment, "SLURM_STEP_NUM_TASKS", 1, minimum=1)
    if size == 1 or "SLURM_PROCID" not in environment:
        return None
    name = "SLURM_STEP_NODELIST" if environment.get("SLURM_STEP_NODELIST") else "SLURM_JOB_NODELIST"
    # One of the last 4096 ports by job, so that two jobs on a node use different ports.
    port = 61440 + _number(environment, "SLURM_JOB_ID", 0) % 4096
    try:
        first = first_slurm_node(environment.get(name, ""))
    except ValueError as error:
        raise UserError(
            f"the environment variable {name} must be a SLURM node list such as gpu[07-09,12], found "
            f"{environment[name][:80]!r}; set JAX_COORDINATOR_ADDRESS=HOST:PORT for all processes."
        ) from error
    return Processes(size, _index(environment, "SLURM_PROCID", size), f"{first}:{port}" if first else "")


def first_slurm_node(nodes: str) -> str:
    """Returns the first name of a node list: `gpu[07-09,12],login` -> `gpu07`, `a[1-2]b[3,5]` -> `a1b3`.

    Raises:
        ValueError: The text is not a node list.
    """
    match = re.match(r"((?:[\w.-]++|\[\w[\w,-]*+\])*+)(?:,|$)", nodes, re.ASCII)
    if not match:
        raise ValueError(nodes)
    return re.sub(r"\[(\w+)[\w,-]*\]", r"\1", match[1], flags=re.ASCII)


def _open_mpi(environment: Mapping[str, str]) -> Processes | None:
    size = _number(environment, "OMPI_COMM_WORLD_SIZE", 1, minimum=1)
    if size == 1 or "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    # Up to version 4 the address of mpirun: 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911
    launcher = environment.get("OMPI_MCA_orte_hnp_uri", "")
    match = re.match(r"(\d+)\.\d+;(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))", launcher)
    address = ""
    if match:
        host = match[2] or f"[{match[3]}]"
        address = f"{host}:{61440 + int(match[1]) // 4096 % 4096}"
    return Processes(size, _index(environment, "OMPI_COMM_WORLD_RANK", size), address)


def _cloud_tpu(environment: Mapping[str, str], fetch: Fetch | None = None) -> Processes | None:
    """Detects one process per host of a slice, or of several slices of one job."""
    hosts, index = _tpu_hosts(environment), environment.get("TPU_WORKER_ID")
    if not hosts and "TPU_SKIP_MDS_QUERY" not in environment and (fetch or _has_tpu()):
        fetch = fetch or _metadata
        index = fetch("agent-worker-number")
        # A list of addresses, or of name:number:address.
        hosts = [entry.split(":")[-1] for entry in (fetch("worker-network-endpoints") or "").split(",") if entry]
        lines = (line.partition(":") for line in (fetch("tpu-env") or "").splitlines())
        environment = {name.strip(): value.strip().strip("'") for name, _, value in lines} | dict(environment)
    if not hosts or index is None:
        return None
    num_slices = _number(environment, "MEGASCALE_NUM_SLICES", 1, minimum=1)
    if num_slices * len(hosts) == 1:
        return ALONE
    slice_index = _index(environment, "MEGASCALE_SLICE_ID", num_slices)
    worker = _index({"TPU_WORKER_ID": index}, "TPU_WORKER_ID", len(hosts))
    first = re.match(r"\[[^\]]*\]|[^:]*", environment.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0])
    assert first is not None, "the pattern matches every text"
    return Processes(num_slices * len(hosts), slice_index * len(hosts) + worker, f"{first[0]}:{TPU_PORT}")


def _tpu_hosts(environment: Mapping[str, str]) -> list[str]:
    return [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]


def _has_tpu() -> bool:
    """Returns True if this machine has Cloud TPUs: an accelerator device, or a VFIO device with Google as vendor."""
    if glob.glob("/dev/accel[0-9]*"):
        return True
    vendors = glob.glob("/sys/bus/pci/devices/*/vendor") if glob.glob("/dev/vfio/[0-9]*") else []
    return any(Path(vendor).read_text(encoding="utf-8").strip() == _GOOGLE_VENDOR for vendor in vendors)


def _metadata(attribute: str) -> str | None:
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{attribute}",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_METADATA_SECS) as answer:
            return answer.read(_MAX_ANSWER_BYTES).decode()
    except (
        OSError,
        http.client.HTTPException,
        UnicodeDecodeError,
    ):  # no such attribute, or no such server: not a slice
        return None


def _kubernetes(environment: Mapping[str, str], num_pods: Callable[[str], int] | None = None) -> Processes | None:
    """Detects one process per pod of an indexed Job, whose headless Service names pods <job>-<index>."""
    if "KUBERNETES_SERVICE_HOST" not in environment or "JOB_COMPLETION_INDEX" not in environment:
        return None
    index = _number(environment, "JOB_COMPLETION_INDEX", 0)
    pod, _, domain = socket.getfqdn(environment.get("HOSTNAME", "")).partition(".")
    job = pod.removesuffix(f"-{index}")
    try:
        size = (num_pods or _num_pods)(job)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"this pod has index {index} in Job {job}, but how many there are cannot be read ({error}): let its "
            "service account read jobs, or give --coordinator, --num_processes and --process_index as "
            "launch/gke.sh does (--num_processes=1 for one pod alone)."
        ) from error
    if size == 1:
        return ALONE  # the pods run one after another
    return Processes(size, index, f"{job}-0{'.' if domain else ''}{domain}:{TPU_PORT}")


def _num_pods(job: str) -> int:
    """Requests the parallelism of a Job from the Kubernetes API server."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    namespace = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    request = urllib.request.Request(
        f"https://{host}:{port}/apis/batch/v1/namespaces/{namespace}/jobs/{job}",
        headers={"Authorization": f"Bearer {(_ACCOUNT / 'token').read_text(encoding='utf-8').strip()}"},
    )
    trust = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=_METADATA_SECS, context=trust) as answer:
        return int(json.loads(answer.read(_MAX_ANSWER_BYTES))["spec"]["parallelism"])
