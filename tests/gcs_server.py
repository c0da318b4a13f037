"""A stand-in for Google Cloud Storage on loopback, after the documentation of its XML API: objects with generations, in memory.

The emulators of PyPI do not suffice: in the XML API gcp-storage-emulator 2026.7 has no ETag, no list and no condition,
and fake-gcs-server accepts no write but a signed one.
"""

import hashlib
import http.server
import itertools
import json
import threading
import urllib.parse
from xml.sax.saxutils import escape

import pytest

MODIFIED = "Fri, 27 Nov 2026 12:00:00 GMT"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Requests of one bucket named `bucket`; the server has its `objects`: key -> (content, generation)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _parts(self):
        url = urllib.parse.urlsplit(self.path)
        bucket, _, key = url.path.lstrip("/").partition("/")
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        return bucket, urllib.parse.unquote(key), query

    def _send(self, status, content=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _version(self, key):
        content, generation = self.server.objects[key]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        return {"ETag": etag, "x_goog_generation": str(generation), "Last_Modified": MODIFIED}

    def _store(self, key, content):
        """Puts an object if the condition of the request holds."""
        with self.server.lock:
            wanted = self.headers.get("x-goog-if-generation-match")
            if wanted is not None and int(wanted) != self.server.objects.get(key, (b"", 0))[1]:
                return self._send(412)
            self.server.objects[key] = (content, next(self.server.generations))
            return self._send(200, **self._version(key))

    def do_GET(self):
        bucket, key, query = self._parts()
        if bucket != "bucket":
            return self._send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        if not key:
            return self._list(query.get("prefix", ""))
        if key not in self.server.objects:
            return self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        content = self.server.objects[key][0]
        if asked := self.headers.get("Range"):
            start, last = asked.removeprefix("bytes=").split("-")
            part = content[int(start) : int(last) + 1 if last else None]
            of = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
            return self._send(206, part, Content_Range=of, **self._version(key))
        return self._send(200, content, **self._version(key))

    def _list(self, prefix):
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Generation>{generation}</Generation><LastModified>2026-11-27T12:00:00.000Z"
            f"</LastModified><ETag>{self._version(key)['ETag']}</ETag><Size>{len(content)}</Size></Contents>"
            for key, (content, generation) in sorted(self.server.objects.items())
            if key.startswith(prefix)
        )
        self._send(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode())

    def do_PUT(self):
        _, key, query = self._parts()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "uploadId" in query:
            self.server.parts[query["uploadId"], int(query["partNumber"])] = content
            return self._send(200, ETag=f'"{hashlib.md5(content).hexdigest()}"')
        if source := self.headers.get("x-goog-copy-source"):
            content = self.server.objects[urllib.parse.unquote(source).partition("/")[2]][0]
        return self._store(key, content)

    def do_POST(self):
        _, key, query = self._parts()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "uploads" in query:
            upload = f"upload-{next(self.server.generations)}"
            found = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self._send(200, found.encode())
        numbers = sorted(number for upload, number in self.server.parts if upload == query["uploadId"])
        content = b"".join(self.server.parts.pop((query["uploadId"], number)) for number in numbers)
        self.server.objects[key] = (content, next(self.server.generations))
        etag = self._version(key)["ETag"]
        body = f"<CompleteMultipartUploadResult><ETag>{escape(etag)}</ETag></CompleteMultipartUploadResult>"
        return self._send(200, body.encode(), **self._version(key))

    def do_DELETE(self):
        _, key, _ = self._parts()
        with self.server.lock:
            found = self.server.objects.pop(key, None)
        self._send(404 if found is None else 204)


@pytest.fixture
def gcs(tmp_path_factory, monkeypatch):
    """The server, in the environment of this process: bucket -> its objects."""
    pytest.importorskip("obstore")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.objects, server.parts, server.lock = {}, {}, threading.Lock()
    server.generations = itertools.count(1764244800000001)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    credentials = tmp_path_factory.mktemp("gcs") / "credentials.json"
    url = f"http://127.0.0.1:{server.server_port}"
    account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    credentials.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(credentials))
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
