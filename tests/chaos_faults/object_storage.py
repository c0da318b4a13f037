"""SIGKILL at random instants of a run in object storage, on machines that take turns, against an S3 server on loopback."""

import contextlib
import hashlib
import json
import logging
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from chaos_faults.kills import MORE_STEPS, OPTIONS, REPORT_EVERY, WITHIN_TRAINING_SECS
from chaos_faults.workshop import ENDLESS, Row, Run, Workshop, expect, expect_same_end, newest, wait_for

URL = "s3://bucket/runs/killed"
MAX_REQUESTS = 150
"""Puts and deletions of a few checkpoints."""

MACHINES = 2
SHORT_LEASE = "short_lease=3"
"""Another machine waits for the lease of a killed process; 90 s for each would be most of the time."""


class Server:
    """An S3 server in this process, looked at without the code under test."""

    def __init__(self):
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.environment = {
            "AWS_ACCESS_KEY_ID": "name", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }  # fmt: skip
        with urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")):
            pass
        self._client = boto3.client(
            "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", aws_access_key_id="name",
            aws_secret_access_key="secret",
        )  # fmt: skip
        self._prefix = URL.removeprefix("s3://bucket/") + "/"

    def keys(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=self._prefix)
        return [entry["Key"].removeprefix(self._prefix) for page in pages for entry in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        return self._client.get_object(Bucket="bucket", Key=self._prefix + key)["Body"].read()

    def steps(self) -> tuple[set[int], set[int]]:
        """Steps with a manifest, and steps that have objects and none."""
        keys = set(self.keys())
        some = {int(key.split("/")[1]) for key in keys if re.match(r"checkpoints/\d+/", key)}
        whole = {step for step in some if f"checkpoints/{step}/manifest.json" in keys}
        return whole, some - whole

    def expect_whole(self) -> None:
        """Every object of a checkpoint that has a manifest is what the manifest says."""
        for step in self.steps()[0]:
            files = json.loads(self.read(f"checkpoints/{step}/manifest.json"))["files"]
            for name, file in files.items():
                found = hashlib.sha256(self.read(f"checkpoints/{step}/{name}")).hexdigest()
                expect(found == file["sha256"], f"checkpoint {step} counts but {name} is damaged")

    def download(self, directory: Path) -> None:
        for key in self.keys():
            path = directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(key))

    def close(self) -> None:
        self._server.stop()


def object_storage(workshop: Workshop, num_kills: int) -> Iterator[Row]:
    """Two of three kills are at a request, the others at an instant; at the end the objects are bitwise the undisturbed run."""
    with contextlib.closing(Server()) as server:
        yield _killed(workshop, server, num_kills)


def _killed(workshop: Workshop, server: Server, num_kills: int) -> Row:
    draws = workshop.draws("object storage")
    workshop.environment |= server.environment
    count = in_uploads = moves = 0
    machine, resumed = 0, set()
    newest_seen = 0
    while count < num_kills:
        if count % 3 == 2:
            machine, moves = (machine + 1) % MACHINES, moves + 1
        before = max(server.steps()[0], default=0)
        if count % 3:
            run = _start(workshop, machine, ENDLESS, faults=(f"die_at_request={draws.randint(1, MAX_REQUESTS)}",))
            expect(run.code() == -9, f"it ended by itself, with {run.process.returncode}:\n{run.said()}")
        else:
            run = _start(workshop, machine, ENDLESS)
            wait_for(lambda run=run: re.search(r"^step ", run.said(), re.MULTILINE), "a step is done", run)
            time.sleep(draws.uniform(0.0, WITHIN_TRAINING_SECS))
            run.kill()
        count += 1
        whole, unfinished = server.steps()
        in_uploads += bool(unfinished)
        now = max(whole, default=0)
        expect(now >= newest_seen, f"checkpoint {newest_seen} was whole and is gone; there are {sorted(whole)}")
        expect(len(whole) >= min(2, len(resumed)), f"two checkpoints are kept; there are {sorted(whole)}")
        newest_seen = now
        server.expect_whole()
        _expect_resumed(run, before, resumed)
        if count % REPORT_EVERY == 0:
            print(f"{count} kills, {in_uploads} within uploads, step {now}", file=sys.stderr, flush=True)
    mirrors = (workshop.directory / f"machine_{machine}").glob("jaxdp/remote/*/run")
    last = max(newest_seen, *(newest(mirror) or 0 for mirror in mirrors)) + MORE_STEPS  # a mirror may be ahead
    run = _start(workshop, machine, f"--config.total_steps={last}")
    expect(run.code() == 0, f"the run should have finished; it said:\n{run.said()}")
    ended, undisturbed = workshop.directory / "downloaded", workshop.directory / "not_killed"
    server.download(ended)
    workshop.finish(undisturbed, *OPTIONS, f"--config.total_steps={last}", "--config.checkpoint.every_steps=0")
    expect_same_end(ended, undisturbed, last)
    expect(not server.steps()[1], "nothing unfinished is left")
    return Row(
        "SIGKILL in object storage",
        f"at random requests and instants of one run in S3 (moto), {in_uploads} within an upload or a deletion, {moves} moves between "
        f"{MACHINES} machines",
        str(count),
        f"no checkpoint lost, every start resumed from the newest whole one ({len(resumed)} different), {last} steps end "
        "bitwise as undisturbed on a disk",
    )


def _start(workshop: Workshop, machine: int, *options: str, faults: tuple[str, ...] = ()) -> Run:
    """Starts the run on a machine, which is a cache directory."""
    environment = workshop.environment
    workshop.environment = environment | {"XDG_CACHE_HOME": str(workshop.directory / f"machine_{machine}")}
    try:
        return workshop.start(URL, *OPTIONS, *options, faults=(SHORT_LEASE, *faults))
    finally:
        workshop.environment = environment


def _expect_resumed(run: Run, before: int, resumed: set[int]) -> None:
    """Goes on from the newest checkpoint there was, or from a newer one that the same machine had not uploaded."""
    said = run.said()
    expect("damaged" not in said and "Traceback" not in said, said)
    steps = re.findall(r"resuming from checkpoint (\d+) of", said)
    started = re.search(r"^step ", said, re.MULTILINE)
    expect(not (started and before and not steps), f"checkpoint {before} is the newest:\n{said}")
    expect(all(int(step) >= before for step in steps), f"checkpoint {before} is the newest:\n{said}")
    resumed.update(steps)
