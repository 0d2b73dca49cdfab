"""As much of the Hugging Face hub as models and weights files need, served from folders on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

SHA = "c" * 40


class Served:
    """What the server has: `repos` maps a hub id to a folder, `gated` names those that refuse files.

    While `gate` is closed, weights do not flow.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        self.url = ""
        self.gate = threading.Event()
        self.gate.set()

    def files(self, repo: str) -> dict[str, Path]:
        root = self.repos[repo]
        return {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}

    def weights_asked(self) -> list[str]:
        return [path for path in self.asked if path.endswith(".safetensors")]


@contextmanager
def hub_of(served: Served) -> Iterator[Served]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            if self.command == "GET":
                served.asked.append(path)
            api = path.startswith("api/models/")
            repo = "/".join(path.removeprefix("api/models/").split("/")[:2])
            rest = path.removeprefix("api/models/").removeprefix(repo).strip("/").split("/")
            if repo not in served.repos:
                return self.refuse(404, "RepoNotFound")
            revision = rest[1] if len(rest) > 1 else "main"
            if revision not in ("main", SHA):
                return self.refuse(404, "RevisionNotFound")
            files = served.files(repo)
            if api and rest[0] == "tree":
                return self.answer(json.dumps(
                    [{"type": "file", "path": n, "size": p.stat().st_size, "oid": tag(p)} for n, p in files.items()]
                ).encode())  # fmt: skip
            if api:
                siblings = [{"rfilename": n, "size": p.stat().st_size, "blobId": tag(p)} for n, p in files.items()]
                return self.answer(json.dumps({"id": repo, "sha": SHA, "siblings": siblings, "tags": []}).encode())
            if repo in served.gated:
                return self.refuse(401, "GatedRepo")
            name = "/".join(rest[2:])
            if name not in files:
                return self.refuse(404, "EntryNotFound")
            return self.answer(files[name].read_bytes(), tag(files[name]))

        do_HEAD = do_GET  # noqa: N815

        def answer(self, body: bytes, etag: str = "") -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", SHA)
            if etag:
                self.send_header("ETag", f'"{etag}"')
            self.end_headers()
            if self.command == "GET":
                if self.path.endswith(".safetensors"):
                    served.gate.wait(30)
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def tag(path: Path) -> str:
    """A git-like id of a file's content."""
    return hashlib.sha1(path.read_bytes()).hexdigest()
