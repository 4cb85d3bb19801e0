"""A server on this machine that speaks the routes of the Hugging Face hub which loading and pushing models need.

Repositories are kept in memory: {repository: {revision: {path: content}}}. Every commit makes a new revision, which
the branch "main" then names. Large files (.safetensors) are answered with a redirect, as the hub does.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

USER, TOKEN = "somebody", "hf_secret"


class Hub:
    """The repositories, and what clients asked for."""

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Add files to a repository, which is created where it does not exist; returns the new revision."""
        history = self.commits.setdefault(repository, [])
        merged = {**(history[-1][1] if history else {}), **files}
        digest = hashlib.sha1(repr((repository, len(history), sorted(merged))).encode()).hexdigest()
        history.append((digest, merged))
        return digest

    def upload(self, repository: str, folder: Path, *, below: str = "") -> str:
        """Commit all files of a folder."""
        files = {below + file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        return self.commit(repository, files)

    def at(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit's name and files."""
        history = self.commits.get(repository, [])
        if revision == "main":
            return history[-1] if history else None
        return next((found for found in history if found[0] == revision), None)


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve a hub; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            hub.requests.append(f"{self.command} {self.path}")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            if match := re.fullmatch(r"/(?:api/resolve-cache/models/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.file(*match.groups(), redirect=True)
            if match := re.fullmatch(r"/storage/([^/]+/[^/]+)/([^/]+)/(.+)", path):
                return self.file(*match.groups(), redirect=False)
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
                return self.about(match[1], match[2] or "main")
            if path == "/api/whoami-v2":
                return self.answer({"name": USER, "type": "user", "orgs": [], "auth": {}})
            return self.fail(404, "EntryNotFound")

        def do_POST(self) -> None:
            body = self.body()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.fail(401, "")
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or USER}/{asked['name']}"
                if name not in hub.commits:
                    hub.commit(name, {".gitattributes": b""})
                return self.answer({"url": f"{self.address()}/{name}", "name": name, "id": name})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if match := re.match(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return self.answer({"files": files})
            if match := re.match(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
                lines = [json.loads(line) for line in body.splitlines() if line.strip()]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                revision = hub.commit(match[1], files)
                url = f"{self.address()}/{match[1]}/commit/{revision}"
                return self.answer({"commitUrl": url, "commitOid": revision, "success": True})
            return self.fail(404, "")

        def file(self, repository: str, revision: str, path: str, *, redirect: bool) -> None:
            if repository in hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.fail(401, "GatedRepo")
            if repository not in hub.commits:
                return self.fail(404, "RepoNotFound")
            found = hub.at(repository, revision)
            if found is None:
                return self.fail(404, "RevisionNotFound")
            commit, files = found
            if path not in files:
                return self.fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
            content = files[path]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            if redirect and path.endswith(".safetensors"):
                headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": headers["ETag"]}
                headers["Location"] = f"{self.address()}/storage/{repository}/{commit}/{path}"
                return self.send(302, b"", headers)
            return self.send(200, content, headers)

        def about(self, repository: str, revision: str) -> None:
            found = hub.at(repository, revision)
            if found is None:
                return self.fail(404, "RevisionNotFound" if repository in hub.commits else "RepoNotFound")
            commit, files = found
            siblings = [{"rfilename": path} for path in sorted(files)]
            return self.answer(
                {"id": repository, "modelId": repository, "sha": commit, "private": False, "siblings": siblings}
                | {"tags": [], "downloads": 0, "likes": 0, "pipeline_tag": "object-detection"}
            )

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def address(self) -> str:
            return f"http://{self.headers['Host']}"

        def answer(self, data: Any) -> None:
            self.send(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

        def fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
            self.send(status, b"{}", {"X-Error-Code": code, **(headers or {})})

        def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler
