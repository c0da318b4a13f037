"""Checkpoints of a few small files, in the form that the mirror of a run uploads, and mirrors over a store in memory."""

import hashlib
import itertools
import json

from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.manifest import Manifest, committed_steps, find_damage, write_manifest
from jaxdp.checkpoint.run_mirror import RunMirror, mirror_name
from jaxdp.storage.lease import Lease
from jaxdp.workdir import WorkDir

_STARTS = itertools.count(1e9, 1000)
"""Times of the starts, so far apart that the lease of a killed process is over."""


def make_checkpoint(directory, step, content="", metrics=None):
    """Commits checkpoint `step` of a work directory."""
    unfinished = directory.checkpoints / f"{step}.saving-0"
    for name in ("state/d/0", "config/metadata", "_CHECKPOINT_METADATA"):
        path = unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} {step} {content}")
    write_manifest(unfinished, Manifest(step, 0.0, metrics or {}, [], describe_files(unfinished)))
    unfinished.rename(directory.checkpoints / str(step))


def machine(root):
    """The mirror's directory on one machine."""
    directory = WorkDir(root, url="s3://bucket/run")
    directory.root.mkdir(parents=True, exist_ok=True)
    return directory


def start(store, directory):
    """Acquires the lease for a mirror and restores it; both end when they are not used any more."""
    now = next(_STARTS)
    lease = Lease(store, mirror_name(directory), clock=lambda: now)
    return RunMirror(directory, store, lease, lambda text: None, sleep=lambda secs: None)


def whole_steps(directory):
    """Steps of a work directory; every file of the newest one is what its manifest says."""
    steps = committed_steps(directory.checkpoints)
    assert not steps or not find_damage(directory.checkpoints / str(steps[-1]))
    return steps


def stored_steps(store):
    """Steps that have a manifest in the store, each compared with its files without the code under test."""
    steps = []
    for key in store.objects:
        top, _, rest = key.partition("/")
        step, _, name = rest.partition("/")
        if top == "checkpoints" and name == "manifest.json" and step.isdecimal():
            for path, file in json.loads(store.objects[key][0])["files"].items():
                content = store.objects[f"checkpoints/{step}/{path}"][0]
                assert hashlib.sha256(content).hexdigest() == file["sha256"], key
            steps.append(int(step))
    return sorted(steps)
