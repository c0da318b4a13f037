"""Files that the tests of readers make."""

import pytest

from jaxdp.data.reading.files import DataFile


@pytest.fixture
def save(tmp_path):
    def save(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return DataFile(str(path), name, path.stat().st_size)

    return save
