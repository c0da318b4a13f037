"""Recording hook: writes finished steps and waits for data to the timeline of the run."""

from jaxdp.report.timeline import Timeline
from jaxdp.trainer import Hook, StepInfo


class Recording(Hook):
    """Records every finished step, so that the work lost by a kill is known to the step."""

    name, after = "recording", ("watching",)

    def __init__(self, timeline: Timeline):
        self._timeline = timeline

    def on_step(self, info: StepInfo) -> None:
        """Records the step."""
        self._timeline.step_finished(info.step, info.queue.wait_secs)
