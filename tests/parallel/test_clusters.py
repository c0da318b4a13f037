"""Processes found in what clusters tell; the variables are those of the real ones."""

import http.server
import json
import socket
import threading

import pytest

from jaxdp.errors import UserError
from jaxdp.parallel import clusters
from jaxdp.parallel.clusters import check_coordinator, cluster_processes, first_slurm_node
from jaxdp.parallel.processes import Processes

SLURM = {
    "SLURM_JOB_ID": "4100", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "3", "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
}  # fmt: skip
OPEN_MPI_4 = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1,10.108.0.1:34911",
}  # fmt: skip
OPEN_MPI_5 = {name: value for name, value in OPEN_MPI_4.items() if not name.startswith("OMPI_MCA")}
GKE_TPU = {"TPU_WORKER_HOSTNAMES": "t-0.t,t-1.t", "TPU_WORKER_ID": "1"}
TWO_SLICES = GKE_TPU | {
    "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "s-0.t:8081",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, None),
        (SLURM, Processes(3, 2, "gpu07:61444")),
        (SLURM | {"JAX_COORDINATOR_PORT": "9"}, Processes(3, 2, "gpu07:9")),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "a:1"}, Processes(3, 2, "a:1")),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, None),  # a shell on a node, not a step
        (OPEN_MPI_4, Processes(4, 1, "10.96.0.1:62624")),
        (
            OPEN_MPI_4 | {"OMPI_MCA_orte_hnp_uri": "8192.0;tcp6://[fe80::1,2620::2]:43370"},
            Processes(4, 1, "[fe80::1]:61442"),
        ),
        (OPEN_MPI_5 | {"JAX_COORDINATOR_ADDRESS": "a:1"}, Processes(4, 1, "a:1")),
        (OPEN_MPI_5 | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (GKE_TPU, Processes(2, 1, "t-0.t:8476")),
        (GKE_TPU | {"TPU_WORKER_HOSTNAMES": "t-0.t"}, None),
        (TWO_SLICES, Processes(4, 3, "s-0.t:8476")),
    ],
)
def test_what_the_environment_tells(environment, processes, monkeypatch):
    monkeypatch.setattr(clusters, "_has_tpu", lambda: False)
    assert cluster_processes(environment) == processes


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node001", "node001"), ("node001,host2", "node001"), ("node[001-015],host2", "node001"),
     ("node[001,007-015],host2", "node001"), ("n[1-2]-ib", "n1-ib"), ("", ""), ("a[1-2]b[3,5]", "a1b3"),
     ("rack[3]n[07-09,12]-ib,login[1-2]", "rack3n07-ib"), ("a[1]b[2]c[3-4],x", "a1b2c3"), ("n1.example.org", "n1.example.org")],
)  # fmt: skip
def test_the_first_of_slurms_nodes(nodes, first):
    assert first_slurm_node(nodes) == first


@pytest.mark.parametrize("nodes", ["a[1", "a]1", "a[]", "a[[1]]", "a[,1]", "a b", "a;b", "(null)"])
def test_what_is_no_node_list_is_refused_by_the_variables_name(nodes):
    with pytest.raises(
        UserError, match=r"SLURM_STEP_NODELIST must be a SLURM node list .* set JAX_COORDINATOR_ADDRESS"
    ):
        cluster_processes(SLURM | {"SLURM_STEP_NODELIST": nodes})


@pytest.mark.parametrize(
    ("environment", "name", "found"),
    [
        (SLURM | {"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS", "'many'"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "-2"}, "SLURM_STEP_NUM_TASKS", "'-2'"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2(x3)"}, "SLURM_STEP_NUM_TASKS", r"'2\(x3\)'"),
        (SLURM | {"SLURM_PROCID": "3"}, "SLURM_PROCID", "'3'"),
        (SLURM | {"SLURM_PROCID": "\u0663"}, "SLURM_PROCID", "'\u0663'"),
        (SLURM | {"SLURM_JOB_ID": "4100_1"}, "SLURM_JOB_ID", "'4100_1'"),
        (SLURM | {"JAX_COORDINATOR_PORT": "65536"}, "JAX_COORDINATOR_PORT", "'65536'"),
        (SLURM | {"JAX_COORDINATOR_PORT": "http"}, "JAX_COORDINATOR_PORT", "'http'"),
        (OPEN_MPI_4 | {"OMPI_COMM_WORLD_RANK": "4"}, "OMPI_COMM_WORLD_RANK", "'4'"),
        (OPEN_MPI_4 | {"OMPI_COMM_WORLD_SIZE": "four"}, "OMPI_COMM_WORLD_SIZE", "'four'"),
        (GKE_TPU | {"TPU_WORKER_ID": "2"}, "TPU_WORKER_ID", "'2'"),
        (TWO_SLICES | {"MEGASCALE_SLICE_ID": "2"}, "MEGASCALE_SLICE_ID", "'2'"),
        (TWO_SLICES | {"MEGASCALE_NUM_SLICES": "0"}, "MEGASCALE_NUM_SLICES", "'0'"),
    ],
)
def test_variables_that_are_no_numbers_of_their_range_are_named(environment, name, found, monkeypatch):
    monkeypatch.setattr(clusters, "_has_tpu", lambda: False)
    with pytest.raises(
        UserError, match=f"environment variable {name} must be a whole number .*, found {found}"
    ) as refusal:
        cluster_processes(environment)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_NODES", "SLURM_NNODES"])
def test_a_number_of_machines_that_is_none_is_named(name):
    environment = {key: value for key, value in SLURM.items() if key != "SLURM_STEP_NUM_NODES"} | {name: "zero"}
    with pytest.raises(UserError, match=f"{name} must be a whole number of at least 1"):
        check_coordinator(Processes(3, 0, "10.0.0.1:1"), environment)


@pytest.mark.parametrize("address", ["foo", "foo:0", "foo:70000", "http://foo:80", "a b:1", "::1:8476"])
def test_an_address_in_the_environment_is_checked(address):
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS="):
        cluster_processes(SLURM | {"JAX_COORDINATOR_ADDRESS": address})


def test_a_host_and_a_port_of_two_variables():
    environment = SLURM | {"JAX_COORDINATOR_ADDRESS": "head", "JAX_COORDINATOR_PORT": "7"}
    assert cluster_processes(environment) == Processes(3, 2, "head:7")


def test_several_processes_from_python_need_an_address():
    with pytest.raises(UserError, match="2 processes need the address of process 0"):
        check_coordinator(Processes(2, 0), {})


def test_several_processes_without_an_address_are_refused():
    with pytest.raises(
        UserError, match=r"process 1 of 4 has its index from the cluster, .* set JAX_COORDINATOR_ADDRESS=HOST:PORT"
    ):
        cluster_processes(OPEN_MPI_5)


ATTRIBUTES = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3",
    "tpu-env": "ACCELERATOR_TYPE: 'v4-16'\nTYPE: 'V4'\n",
}


@pytest.mark.parametrize(
    ("attributes", "processes"),
    [
        (ATTRIBUTES, Processes(2, 1, "10.0.0.2:8476")),
        (ATTRIBUTES | {"worker-network-endpoints": "10.0.0.4,10.0.0.5,10.0.0.6"}, Processes(3, 1, "10.0.0.4:8476")),
        (
            ATTRIBUTES | {"tpu-env": "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.9.9.9'\n"},
            Processes(4, 3, "10.9.9.9:8476"),
        ),
        ({}, None),
    ],
)  # fmt: skip
def test_a_cloud_tpu_machine_asks_its_metadata_server(attributes, processes, monkeypatch):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = name in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_address[1]}")
        monkeypatch.setattr(clusters, "_has_tpu", lambda: True)
        assert cluster_processes({}) == processes
        assert cluster_processes({"TPU_SKIP_MDS_QUERY": "1"}) is None
        server.shutdown()
        thread.join()


def test_a_tpu_without_a_metadata_server_is_alone(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")
    monkeypatch.setattr(clusters, "_has_tpu", lambda: True)
    assert cluster_processes({}) is None


POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1", "HOSTNAME": "train-1"}


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("train-1.jaxdp.default.svc.cluster.local", "train-0.jaxdp.default.svc.cluster.local:8476"),
        ("train-1", "train-0:8476"),
    ],
)
def test_a_pod_of_an_indexed_job_asks_how_many_there_are(monkeypatch, name, address):
    asked = []
    monkeypatch.setattr(socket, "getfqdn", lambda host: name)
    monkeypatch.setattr(clusters, "_num_pods", lambda job: asked.append(job) or 4)
    assert cluster_processes(POD) == Processes(4, 1, address)
    assert asked == ["train"]
    monkeypatch.setattr(clusters, "_num_pods", lambda job: 1)
    assert cluster_processes(POD) is None


def test_a_pod_without_permission_gets_the_fix(monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda host: "train-1")
    with pytest.raises(UserError, match=r"index 1 in Job train, but .* cannot be read .*give --coordinator"):
        cluster_processes(POD)  # nobody answers here, and there is no token


@pytest.mark.parametrize(
    "answer", [b'{"spec": []}', b"[1]", b"not json", b'{"spec": {"parallelism": "many"}}', b"\xff"]
)
def test_an_unexpected_answer_about_a_job_is_a_user_error(monkeypatch, answer):
    monkeypatch.setattr(socket, "getfqdn", lambda host: "train-1")
    monkeypatch.setattr(clusters, "_num_pods", lambda job: int(json.loads(answer)["spec"]["parallelism"]))
    with pytest.raises(UserError, match="index 1 in Job train, but how many there are cannot be read"):
        cluster_processes(POD)


def test_pods_of_other_kinds_are_alone():
    assert cluster_processes({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "web-1"}) is None


@pytest.mark.parametrize(
    ("environment", "num_machines"),
    [(SLURM, 3), (OPEN_MPI_4, 2), (GKE_TPU, 2), (POD, 4), ({}, 1), (SLURM | {"SLURM_STEP_NUM_NODES": "1"}, 1)],
)
def test_a_loopback_address_for_several_machines_is_refused(environment, num_machines):
    check_coordinator(Processes(4, 0, "10.0.0.1:1"), environment)
    if num_machines == 1:
        check_coordinator(Processes(4, 0, "127.0.0.1:1"), environment)
        return
    with pytest.raises(
        UserError, match=f"127.0.0.1:1 leads every machine to itself, .* run on {num_machines} machines"
    ):
        check_coordinator(Processes(4, 0, "127.0.0.1:1"), environment)


@pytest.mark.parametrize("nodes", ["n" * 200 + "!", "a[1-2]" * 100 + "!", "n" * 200 + "[", "a[" + "1," * 200 + "!"])
def test_a_long_list_with_a_wrong_character_is_refused_and_not_searched_for_ever(nodes):
    with pytest.raises(ValueError, match=r"^(a|n)"):
        first_slurm_node(nodes)
