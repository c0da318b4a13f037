"""Lease of a work directory that another process of the same run holds."""

from jaxdp.storage.lease import LeaseLost
from jaxdp.storage.lease_content import KEY, described, parsed
from jaxdp.storage.object_store import ObjectStore


class HeldLease:
    """Lease of process 0, for the other processes of its run."""

    def __init__(self, store: ObjectStore, session: str):
        """Creates the object.

        Args:
            store: Work directory.
            session: `Lease.session` of process 0.
        """
        self._store, self._session = store, session

    def ensure(self) -> None:
        """Makes sure, by reading it, that the lease still is that of this run.

        Raises:
            LeaseLost: It is released or another run holds it.
            StorageError: The store cannot be reached.
        """
        try:
            found = parsed(self._store.read(KEY)[0])
        except FileNotFoundError:
            found = None
        if found is None or found["session"] != self._session or found["released"]:
            holder = "nobody" if found is None or found["released"] else described(found)
            raise LeaseLost(
                f"the lease of {self._store.url} now belongs to {holder}, so this process stops and writes nothing more to it; "
                "the state of its run is in the checkpoints there."
            )
