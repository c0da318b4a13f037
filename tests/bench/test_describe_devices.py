"""`jaxdp devices`: what there is, tried out."""

import jax
import pytest

from jaxdp.bench import devices
from jaxdp.cli.main import main


def test_it_tells_what_there_is(capsys):
    assert main(["devices", "--cpu_devices=8"]) == 0
    out, err = capsys.readouterr()
    lines = {line[:12].strip(): line[13:] for line in out.splitlines()}
    assert err == "" and list(lines) == [
        "python",
        "jax",
        "platform",
        "devices",
        "processes",
        "cores",
        "memory",
        "peak",
        "XLA flags",
        "all-reduce",
    ]
    assert lines["devices"] == "8 x cpu" and lines["platform"] == "cpu" and lines["processes"] == "1"
    assert lines["jax"].startswith(jax.__version__)
    assert lines["peak"] == "not known for this chip"
    assert lines["XLA flags"] == "none recommended"
    assert lines["all-reduce"] == "works over all 8: this machine can train"


def test_a_wrong_sum_is_an_error(monkeypatch):
    """The sum is really computed: one that leaves a device out is noticed."""
    monkeypatch.setattr(devices.jax.lax, "psum", lambda value, axis: value * 7)
    with pytest.raises(RuntimeError, match=r"all-reduce of ones over 8 devices returned 7\.0, expected 8"):
        devices.describe_devices(8)
