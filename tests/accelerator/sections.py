"""Sections of the accelerator check, in order of importance: a late section is skipped when time runs out."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Section:
    """Section of the check, run in a process of its own.

    Attributes:
        name: Name in the table.
        target: `module:function`, which takes a `Context`; relative to this package if it begins with a dot.
        limit_secs: Time after which the section is stopped.
        min_secs: Remaining time of the check below which the section is skipped.
        memory_fraction: Share of the device memory that XLA allocates at the start.
        stage: Sections of equal stage run at the same time; only sections that measure no time share a stage.
    """

    name: str
    target: str
    limit_secs: float
    min_secs: float = 10.0
    memory_fraction: float = 0.9
    stage: int = 0


SECTIONS = (
    Section("environment", ".environment:measure", 60, stage=0),
    Section("speed 124M", ".speed:small", 240, stage=1),
    Section("profile", ".profiling:measure", 60, min_secs=20, stage=2),
    Section("nanoGPT 124M", ".nanogpt:small", 80, min_secs=40, stage=3),
    Section("speed 350M", ".speed:medium", 200, min_secs=40, stage=4),
    Section("variants", ".variants:measure", 240, min_secs=30, stage=5),
    Section("parity", ".parity:measure", 150, memory_fraction=0.15, min_secs=30, stage=6),
    Section("repeat", ".repeat:measure", 150, memory_fraction=0.2, min_secs=60, stage=6),
    Section("generation", ".generation:measure", 100, min_secs=20, stage=7),
    Section("nanoGPT generation", ".nanogpt:generation", 70, min_secs=40, stage=8),
    Section("nanoGPT 350M", ".nanogpt:medium", 130, min_secs=50, stage=9),
)
