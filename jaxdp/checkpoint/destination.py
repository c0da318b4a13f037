"""Destination of the checkpoints of a run: the directory that its processes share, or a place that a subclass copies it to."""

from pathlib import Path

from jaxdp.checkpoint.shard_records import ShardRecord, collect_shards
from jaxdp.parallel.control_plane import ControlPlane


class Destination:
    """Directory that all processes of a run share, where a committed checkpoint stays."""

    def send_shards(self, unfinished: Path, process: int) -> None:
        """Gives the shards that a process has written next to an unfinished checkpoint to process 0, which sees them here."""

    def collect_shards(self, unfinished: Path, control_plane: ControlPlane) -> list[ShardRecord]:
        """Waits in process 0 for the shards of all processes; see `shard_records.collect_shards`."""
        return collect_shards(unfinished, control_plane)

    def publish(self) -> None:
        """Copies what has changed to where the run is kept; called after each commit."""
