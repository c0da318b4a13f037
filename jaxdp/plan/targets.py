"""Targets of a plan: `v5e:4x4`, `h100:8` or `here`, and the checks of their names and sizes."""

import dataclasses
import importlib.util
import math
import re
from importlib import metadata

from jaxdp.errors import UserError
from jaxdp.hardware.accelerators import ACCELERATORS, Accelerator
from jaxdp.nearest import closest
from jaxdp.parallel.devices import divide_batch, divisors_up_to

HERE = "here"

EXTRAS = {"tpu": ("plan-tpu", ("libtpu",)), "gpu": ("plan-cuda", ("jax_cuda12_plugin", "jax_cuda13_plugin"))}
"""Platform -> (extra of the package, modules, one of them must be installed)."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to plan for.

    Attributes:
        text: Target as it was given.
        accelerator: Kind of the devices; None for those of this machine.
        shape: Sizes of the torus of a TPU slice in chips, or the number of GPUs; () for this machine.
    """

    text: str
    accelerator: Accelerator | None = None
    shape: tuple[int, ...] = ()

    @property
    def num_devices(self) -> int | None:
        """Number of JAX devices; None for this machine, where it is known once JAX has started."""
        return math.prod(self.shape) * self.accelerator.devices_per_chip if self.accelerator else None


def parse_targets(text: str) -> list[Target]:
    """Returns the targets of a comma-separated list, each once.

    Raises:
        UserError: A target is unknown, or its shape is not one of its kind.
    """
    names = [name.strip() for name in text.lower().split(",") if name.strip()]
    if not names:
        raise UserError(f"--for is empty; give targets such as v5e:4x4, h100:8 or {HERE}.")
    return [parse_target(name) for name in dict.fromkeys(names)]


def parse_target(text: str) -> Target:
    """Returns the target of `KIND:SHAPE`; raises as `parse_targets`."""
    if text == HERE:
        return Target(HERE)
    kind, separator, shape = text.partition(":")
    kind = {"tpu7x": "v7x", "4090": "rtx4090"}.get(kind, kind.removeprefix("tpu-").removeprefix("nvidia-"))
    if kind not in ACCELERATORS:
        known = [HERE, *ACCELERATORS]
        match = closest(kind, known)
        hint = f"did you mean {match!r}? The" if match else "the"
        raise UserError(f"target {text!r} is unknown; {hint} kinds of devices are {', '.join(known)}.")
    accelerator = ACCELERATORS[kind]
    sizes = tuple(map(int, shape.split("x"))) if re.fullmatch(r"\d{1,4}(x\d{1,4})*", shape) else ()
    if not separator or not sizes or min(sizes) < 1 or len(sizes) != max(accelerator.dimensions, 1):
        raise UserError(f"target {text!r} must be {_form(kind, accelerator)}.")
    return Target(f"{kind}:{shape}", accelerator, sizes)


def _form(kind: str, accelerator: Accelerator) -> str:
    """Describes the targets of a kind."""
    if accelerator.dimensions:
        example = "x".join(["4"] * accelerator.dimensions)
        return f"{kind}: and the sizes of the slice in chips along its {accelerator.dimensions} axes, as in {kind}:{example}"
    return f"{kind}: and a number of devices, as in {kind}:8"


def check_divides(target: Target, global_batch_size: int, microbatch_size: int | None) -> None:
    """Raises UserError if the devices of a target cannot share the batch; the message has the counts or sizes that can."""
    count = target.num_devices
    if count is None:
        return
    # A microbatch that no number of devices can have must change in any case.
    at_once = microbatch_size if microbatch_size and global_batch_size % microbatch_size == 0 else 1
    if global_batch_size % count == 0:
        try:
            divide_batch(global_batch_size, microbatch_size, count)
        except UserError as refusal:
            others = f", or plan for {_near(global_batch_size // at_once, count)} devices" if at_once > 1 else ""
            raise UserError(f"{target.text}: {str(refusal).removesuffix('.')}{others}.") from None
        return
    near = _near(global_batch_size // at_once, count)
    lower = global_batch_size // count * count
    sizes = f"{lower} or {lower + count}" if lower else f"{count}"
    raise UserError(
        f"the {count} devices of {target.text} do not divide global_batch_size={global_batch_size}; plan for "
        f"{near} devices, or set --config.global_batch_size={sizes}."
    )


def _near(number: int, count: int) -> str:
    """Lists the divisors of a number that are nearest to a number of devices."""
    counts = divisors_up_to(number, 4 * count)
    return ", ".join(map(str, sorted(sorted(counts, key=lambda each: abs(math.log(each / count)))[:6])))


def check_extra(target: Target) -> None:
    """Raises UserError if the compiler of a target is not installed; the message has the command that installs it."""
    if target.accelerator is None:
        return
    extra, modules = EXTRAS[target.accelerator.platform]
    if any(importlib.util.find_spec(name) for name in modules):
        return
    # The plugin must be of the version of jaxlib; no requirement of a package can express that.
    pin = f' "jax-cuda12-plugin=={metadata.version("jaxlib")}"' if extra == "plan-cuda" else ""
    raise UserError(
        f"planning for {target.text} needs the compiler of its devices, which is not installed ({modules[0]}); "
        f'run: pip install "jaxdp[{extra}]"{pin}'
    )
