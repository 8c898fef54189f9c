"""Servers on this machine that speak the protocols of the hubs, with every fault that a real one may have."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from zhixing.core import progress

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What goes wrong with the next requests whose path has `on` in it."""

    on: str
    status: int = 200
    headers: dict = field(default_factory=dict)
    cut: int | None = None
    times: int = 1


class Server:
    """Serves `files`; counts requests; faults are used up one by one."""

    repository = "org/tiny"

    def __init__(self):
        self.files = {}
        self.requests = []
        self.faults = []
        self.lies = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.handle(self)

            def do_HEAD(self):
                server.handle(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def handle(self, handler):
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        self.requests.append((handler.command, path, query, dict(handler.headers)))
        fault = next((fault for fault in self.faults if fault.on in handler.path and fault.times), None)
        if fault:
            fault.times -= 1
        if fault and fault.status >= 400:
            return self.send(handler, fault.status, fault.headers, b"")
        status, headers, body = self.answer(path, query)
        return self.send(handler, status, headers, body, fault.cut if fault else None)

    def send(self, handler, status, headers, body, cut=None):
        if status == 200 and (asked := handler.headers.get("Range")) and not self.lies.get("no ranges"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                status, body = 416, b""
            else:
                headers = {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
                status, body = 206, body[start:]
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if "Content-Length" not in headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            handler.wfile.flush()
            handler.connection.close()
            handler.close_connection = True

    def asked(self, on=""):
        return [request for request in self.requests if on in request[1] or on in str(request[2])]


class FakeHub(Server):
    """The Hugging Face hub: the listing, and files that lie on another host, to which it redirects."""

    def answer(self, path, query):
        if path.startswith(f"/api/models/{self.repository}/revision/"):
            if "names only" in self.lies:
                siblings = [{"rfilename": name} for name in self.files]
            else:
                siblings = [self.listed(name, data) for name, data in self.files.items()]
            values = {"id": self.repository, "sha": COMMIT, "siblings": siblings, **self.lies.get("listing", {})}
            return 200, {"Content-Type": "application/json"}, json.dumps(values).encode()
        revision = "main" if f"/{self.repository}/resolve/main/" in path else COMMIT
        resolve, cdn = f"/{self.repository}/resolve/{revision}/", "/cdn/"
        if path.startswith(resolve) and (name := path.removeprefix(resolve)) in self.files:
            data = self.files[name]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.git(data)}"'}
            if name.endswith((".safetensors", ".gguf")):
                place = f"http://localhost:{self.http.server_port}{cdn}{name}"
                headers |= {"X-Linked-Etag": f'"{self.sha256(data)}"', "X-Linked-Size": str(len(data))}
                return 302, {**headers, "Location": place}, b""
            return 200, headers, data
        if path.startswith(cdn) and (name := path.removeprefix(cdn)) in self.files:
            return 200, {}, self.lies.get(name, self.files[name])
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def listed(self, name, data):
        entry = {"rfilename": name, "size": len(data), "blobId": self.git(data)}
        if name.endswith((".safetensors", ".gguf")):
            entry["lfs"] = {"sha256": self.sha256(data), "size": len(data), "pointerSize": 134}
        return entry

    @staticmethod
    def sha256(data):
        return hashlib.sha256(data).hexdigest()

    @staticmethod
    def git(data):
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeModelScope(Server):
    """ModelScope: a listing with checksums, and files."""

    def answer(self, path, query):
        base = f"/api/v1/models/{self.repository}/repo"
        if path == f"{base}/files" and query.get("Recursive") == "true":
            files = [
                {
                    "Path": name,
                    "Name": name.rpartition("/")[2],
                    "Type": "blob",
                    "Size": len(data),
                    "Sha256": hashlib.sha256(data).hexdigest(),
                }
                for name, data in self.files.items()
            ]
            files.append({"Path": "1_Pooling", "Name": "1_Pooling", "Type": "tree", "Size": 0})
            return 200, {}, json.dumps({"Code": 200, "Data": {"Files": files}, "Success": True}).encode()
        if path == base and query.get("FilePath") in self.files:
            name = query["FilePath"]
            return 200, {}, self.lies.get(name, self.files[name])
        return 404, {}, json.dumps({"Code": 10010205001, "Message": "not found", "Success": False}).encode()


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 1000,
    "tokenizer.json": b"{}" * 500,
    "1_Pooling/config.json": b"{}",
    "README.md": b"# tiny\n",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"import os",
    "onnx/model.onnx": b"onnx",
    "tf_model.h5": b"h5",
    "model.fp16.safetensors": b"another",
}
TAKEN = {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json", "README.md"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch, tmp_path):
    """Caches of the test's own, no token of anybody, and no waiting between attempts."""
    from huggingface_hub import constants

    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "MODELSCOPE_API_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("zhixing.checkpoints.hubs.transfer.PAUSE", 0.001)
    progress.set_quiet(False)


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    server = FakeHub()
    server.files = dict(FILES)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    yield server
    server.stop()


@pytest.fixture
def modelscope(monkeypatch):
    server = FakeModelScope()
    server.files = dict(FILES)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    yield server
    server.stop()
