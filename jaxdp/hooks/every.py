"""Step-based trigger for periodic hooks."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Every:
    """Trigger at multiples of `steps` (0: never) and at `last_step`."""

    steps: int
    last_step: int | None = None

    def __call__(self, step: int) -> bool:
        """Returns True if the hook is due after `step` updates."""
        return step == self.last_step or (self.steps > 0 and step % self.steps == 0)
