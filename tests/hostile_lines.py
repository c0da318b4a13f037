"""Lines that a stranger may send to the coordinator's port."""

from jaxdp.parallel.control_messages import MAX_HANDSHAKE_BYTES, message


def hello(**fields):
    """A hello as a stranger may send it: of the right shape, its proof is none."""
    return message("hello", {"process": 1, "of": 2, "host": "x", "nonce": "n", "proof": "0" * 64} | fields)


HOSTILE = {
    "open brackets": b"[" * 200_000 + b"\n",
    "few open brackets": b"[" * 3000 + b"\n",
    "process -5": b'["hello",{"process":-5,"of":2,"host":"x"}]\n',
    "process 7": b'["hello",{"process":7,"of":2,"host":"x"}]\n',
    "a hello of an earlier version, then leave 5": b'["hello",{"process":1,"of":2,"host":"x"}]\n["leave",5]\n',
    "negative index with a proof": hello(process=-5),
    "index beyond the number": hello(process=7),
    "an index that is true": hello(process=True),
    "an index that is a fraction": hello(process=1.0),
    "an index of many digits": hello().replace(b": 1,", b": " + b"9" * 3000 + b","),
    "a proof that is none": hello(),
    "process 0 itself": hello(process=0),
    "a proof that is no ASCII": hello(proof="\u00e9" * 64),
    "a proof that is a list": hello(proof=[0]),
    "a surrogate in the proof": hello(proof="\ud800"),
    "another number of processes": hello(of=3),
    "hello, then leave": hello() + b'["leave",{"exit_code":3,"sentence":"\\u001b[31mhaha"}]\n',
    "leave": b'["leave",{"exit_code":3,"sentence":"haha"}]\n',
    "part": b'["part",1]\n',
    "welcome": b'["welcome",null]\n',
    "kind that is a list": b'[["hello"],1]\n',
    "NaN": b"NaN\n",
    "no UTF-8": b"\xff\xfe\n",
    "NUL": b"\0" * 100 + b"\n",
    "only line breaks": b"\n" * 5000,
    "a line without an end": b"x" * (MAX_HANDSHAKE_BYTES + 1),
    "a request of a browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303"),
    "nothing": b"",
}
