"""URLs of work directories in object storage."""

from pathlib import Path

import pytest

from jaxdp.errors import UserError
from jaxdp.storage.location import is_remote, remote_location


@pytest.mark.parametrize(
    "text", ["runs/a", "/runs/a", "hf:gpt2", "https://a/b", "hdfs://a/b", "s3:/a", "S3://a/b", Path("s3://a/b")]
)
def test_other_places(text):
    assert not is_remote(text)


@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket.of-mine/runs/a.b_c=1,2"])
def test_a_url_is_read_and_written_again(url):
    assert is_remote(url)
    assert remote_location(url, "--workdir").url == remote_location(f"{url}/", "--workdir").url == url


@pytest.mark.parametrize(
    "url, message",
    [
        ("s3://", "names no bucket; expected s3://BUCKET/NAME"),
        ("s3:///runs", "names no bucket"),
        ("s3://bucket/a//b", "'' cannot be part"),
        ("s3://bucket/a/../b", "'..' cannot be part"),
        ("s3://bucket/a b", "'a b' cannot be part"),
        ("s3://bucket/a?b#c", "cannot be part"),
        ("gs://bucket/a\nb", "cannot be part"),
    ],
)
def test_a_url_that_cannot_be_a_directory_is_refused(url, message):
    with pytest.raises(UserError, match=message):
        remote_location(url, "--workdir")
