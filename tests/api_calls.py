"""Many calls of the Python API in one process, in an order that no command has; prints what became of each as JSON.

Usage: python api_calls.py CONFIG.py TRAINED_WORKDIR DIRECTORY
"""

import faulthandler
import functools
import json
import signal
import sys
import threading
import traceback
from pathlib import Path

import jaxdp


def attempt(call):
    """{"result"} of a call, or {"error", "text"}."""
    try:
        return {"result": str(call())}
    except BaseException as error:
        return {"error": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}


def process_state():
    """What a call must leave as it was."""
    return {
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "unraisablehook": str(sys.unraisablehook),
        "excepthooks": [str(sys.excepthook), str(threading.excepthook)],
        "faulthandler": faulthandler.is_enabled(),
        "wakeup": signal.set_wakeup_fd(-1),
    }


def in_thread(call):
    """Makes a call in a thread of its own."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(attempt(call)))
    thread.start()
    thread.join()
    return outcome[0]


def main(config_file, trained, directory):
    directory = Path(directory)

    def config(*changes):
        config = jaxdp.load_config(
            config_file,
            [
                f"--config.{change}"
                for change in ("total_steps=2", "eval.every_steps=0", "optim.schedule=constant", *changes)
            ],
        )
        config.parallel.cpu_devices = None
        return config

    def changed():
        changed = config()
        changed.total_epochs = 1.0  # beside total_steps
        return changed

    def train(name, **options):
        return jaxdp.train(config(), directory / name, **options)

    @functools.cache
    def model():
        return jaxdp.load(trained)

    def devices():
        import jax

        return len(jax.devices())

    before = process_state()
    report = {}
    steps = {
        "generate one": lambda: len(jaxdp.generate(trained, "the of", max_new_tokens=3)),
        "generate two": lambda: len(jaxdp.generate(trained, ["the of", "and"], max_new_tokens=3)),
        "devices": devices,
        "evaluate": lambda: sorted(jaxdp.evaluate(trained, step=3))[:1],
        "train": lambda: train("first"),
        "generate after train": lambda: len(
            jaxdp.generate(directory / "first", iter(["the of"] * 3), max_new_tokens=3)
        ),
        "train again": lambda: train("second"),
        "continue": lambda: jaxdp.train(config("total_steps=3"), directory / "first", resume="must"),
        "load a model": lambda: (
            model().generate("the of", max_new_tokens=3) == jaxdp.generate(trained, "the of", max_new_tokens=3)
        ),
        "evaluate a model": lambda: model().evaluate() == jaxdp.evaluate(trained),
        "load": lambda: jaxdp.load_checkpoint(directory / "second").step,
        "other devices": lambda: jaxdp.generate(trained, ["the of"], cpu_devices=3),
        "same devices": lambda: len(jaxdp.generate(trained, ["the of"], max_new_tokens=3, cpu_devices=devices())),
        "no data": lambda: jaxdp.train(config("data.path=nowhere.txt"), directory / "third"),
        "two durations": lambda: jaxdp.train(changed(), directory / "third"),
    }
    for name, call in steps.items():
        report[name] = attempt(call)
    report["train in a thread"] = in_thread(lambda: train("fourth"))
    report["generate in a thread"] = in_thread(lambda: len(jaxdp.generate(trained, ["the of"], max_new_tokens=3)))
    report["load in a thread"] = in_thread(lambda: len(jaxdp.load(trained).generate("the of", max_new_tokens=3)))
    report["a model in a thread"] = in_thread(lambda: len(model().generate("the of", max_new_tokens=3)))
    report["state"] = {"before": before, "after": process_state()}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
