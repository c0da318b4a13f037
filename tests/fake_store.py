"""Object store in memory that ends its process at any operation: before its effect, or after it and before the answer."""

from pathlib import Path

from jaxdp.storage.object_store import ObjectChanged, ObjectExists, ObjectInfo, StorageError


class Killed(BaseException):
    """The process ends here."""


class FakeStore:
    """`ObjectStore` over a dict that survives it.

    Args:
        objects: Key -> (content, version), shared by all stores of one place.
        fail_at: Number of the changing operation that fails; None: none fails.
        after: Whether it fails after its effect.
        error: What is raised.
    """

    url = "s3://bucket/run"

    def __init__(self, objects=None, fail_at=None, after=False, error=Killed):
        self.objects = {} if objects is None else objects
        self.fail_at, self.after, self.error = fail_at, after, error
        self.num_changes, self.log = 0, []
        self.is_down = False

    def _reached(self):
        if self.is_down:
            raise StorageError("the network is down.", is_transient=True)

    def _change(self, what, key, effect):
        self._reached()
        fails = self.num_changes == self.fail_at
        self.num_changes += 1
        self.log.append((what, key))
        if fails and not self.after:
            raise self.error()
        result = effect()
        if fails:
            raise self.error()
        return result

    def _set(self, key, content):
        tag = {"e_tag": f'"{sum(map(len, self.log))}-{self.num_changes}-{key}"'}
        self.objects[key] = (content, tag)
        return tag

    def read(self, key):
        self._reached()
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def read_range(self, key, start, stop):
        return self.read(key)[0][start:stop]

    def pieces(self, key):
        content = self.read(key)[0]
        yield from (content[: len(content) // 2], content[len(content) // 2 :])

    def put(self, key, content):
        content = content.read_bytes() if isinstance(content, Path) else content
        self._change("put", key, lambda: self._set(key, content))

    def put_new(self, key, content):
        self._reached()
        if key in self.objects:
            raise ObjectExists(key)
        return self._change("put", key, lambda: self._set(key, content))

    def replace(self, key, content, tag):
        self._reached()
        if key not in self.objects or self.objects[key][1] != tag:
            raise ObjectChanged(key)
        return self._change("put", key, lambda: self._set(key, content))

    def copy(self, source, target):
        self._change("copy", target, lambda: self._set(target, self.read(source)[0]))

    def list(self, prefix=""):
        self._reached()
        return [
            ObjectInfo(key, len(content), tag["e_tag"])
            for key, (content, tag) in sorted(self.objects.items())
            if not prefix or key.startswith(f"{prefix}/")
        ]

    def delete(self, keys):
        for key in list(keys):
            self._change("delete", key, lambda key=key: self.objects.pop(key, None))
