"""Downloads from a local server: resumed, atomic and verified, with helpful messages without a network."""

import hashlib
import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rtdetr.errors import WeightsError
from rtdetr.weights import cache_dir, download

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under any name. `faults` holds what goes wrong with the next requests, `requests` what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag = CONTENT, '"one"'
        self.faults: list[str | int] = []
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/model.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        content, start = self.server.content, 0
        if wanted and self.headers.get("If-Range") == self.server.tag and fault != "no ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", self.server.tag)
        self.send_header("Content-Type", "text/html" if fault == "web page" else "application/octet-stream")
        self.end_headers()
        end = 100_000 if fault == "cut" else len(content)
        self.wfile.write(content[start:end])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("RTDETR_OFFLINE", "HF_HUB_OFFLINE", "RTDETR_WEIGHTS_URL", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys.modules["rtdetr.weights.download"], "RETRY_DELAYS", (0.0, 0.0, 0.0))
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_fetched_once_and_recorded(server: Server, tmp_path: Path) -> None:
    path = download(server.url, sha256=HASH.upper())
    assert path == tmp_path / "cache" / "model.pth" == cache_dir() / "model.pth"
    assert path.read_bytes() == CONTENT
    assert path.with_name("model.pth.sha256").read_text().split() == [HASH, "model.pth"]
    assert download(server.url) == path
    assert server.requests == [None]
    assert not list(path.parent.glob("*.partial*"))


def test_resumes_a_broken_connection(server: Server) -> None:
    server.faults = ["cut"]
    assert download(server.url).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_resumes_in_a_later_process(server: Server) -> None:
    server.faults = ["cut", 404]
    with pytest.raises(WeightsError, match="404"):
        download(server.url)
    assert (cache_dir() / "model.pth.partial").stat().st_size == 100_000
    assert not (cache_dir() / "model.pth").exists()
    assert download(server.url, sha256=HASH).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100000-"


@pytest.mark.parametrize("fault", ["no ranges", None])
def test_restarts_if_the_rest_is_not_available(server: Server, fault: str | None) -> None:
    """A server without ranges, and a file that changed meanwhile: no mixture of two files."""
    server.faults = ["cut", 404]
    with pytest.raises(WeightsError):
        download(server.url)
    if fault is None:
        server.content, server.tag = CONTENT[::-1], '"two"'
    server.faults = [fault] if fault else []
    assert download(server.url).read_bytes() == server.content


def test_partial_longer_than_the_file(server: Server) -> None:
    cache_dir().mkdir()
    (cache_dir() / "model.pth.partial").write_bytes(CONTENT + b"more")
    (cache_dir() / "model.pth.partial.tag").write_text('"one"')
    assert download(server.url).read_bytes() == CONTENT


def test_retries_a_busy_server(server: Server) -> None:
    server.faults = [503, 500, "cut"]
    assert download(server.url).read_bytes() == CONTENT
    assert len(server.requests) == 4


@pytest.mark.parametrize(("fault", "requests"), [(404, 1), (403, 1), (500, 4), ("web page", 1)])
def test_gives_up(server: Server, fault: str | int, requests: int) -> None:
    server.faults = [fault] * requests
    with pytest.raises(WeightsError) as error:
        download(server.url)
    assert len(server.requests) == requests
    assert server.url in str(error.value) and str(cache_dir() / "model.pth") in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_hash(server: Server) -> None:
    with pytest.raises(WeightsError, match=r"should have SHA-256 00.*deleted"):
        download(server.url, sha256="00" * 32)
    assert not list(cache_dir().glob("model.pth*[!k]"))  # nothing but the lock
    with pytest.raises(WeightsError, match=r"model\.pth should have SHA-256 00.*Delete the file"):
        download(str(download(server.url).as_uri()), sha256="00" * 32)


def test_cached_file_that_changed(server: Server) -> None:
    path = download(server.url)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=r"changed since its first use.*Delete it and model\.pth\.sha256"):
        download(server.url)


def test_file_put_there_by_hand(server: Server) -> None:
    cache_dir().mkdir()
    (cache_dir() / "model.pth").write_bytes(CONTENT)
    assert download("https://nowhere.invalid/model.pth", sha256=HASH) == cache_dir() / "model.pth"
    assert server.requests == []


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RTDETR_OFFLINE", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            with pytest.raises(WeightsError) as error:
                download(server.url)
        assert str(error.value).count(server.url) == 1
        assert f"Download {server.url} by other means and save it as {cache_dir() / 'model.pth'}" in str(error.value)
    monkeypatch.setenv("RTDETR_OFFLINE", "0")
    path = download(server.url)
    monkeypatch.setenv("RTDETR_OFFLINE", "1")
    assert download(server.url) == path


def test_no_network(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*args: object, **kwargs: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", blocked)
    with pytest.raises(WeightsError, match=r"Network is unreachable.*save it as .*model\.pth\.$"):
        download(server.url)


def test_no_name_resolution(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def unknown(*args: object, **kwargs: object) -> None:
        calls.append(args)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(WeightsError, match="Name or service not known"):
        download(server.url)
    assert len(calls) == 1  # no seconds of waiting for a network that is not there


def test_mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTDETR_WEIGHTS_URL", server.url.rsplit("/", 1)[0] + "/")
    assert download("https://nowhere.invalid/releases/model.pth").read_bytes() == CONTENT


def test_mirror_in_a_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.pth").write_bytes(b"local")
    monkeypatch.setenv("RTDETR_WEIGHTS_URL", tmp_path.as_uri())
    assert download("https://nowhere.invalid/model.pth").read_bytes() == b"local"


def test_concurrent_downloads(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(download, [server.url] * 8))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == CONTENT
    assert server.requests == [None]


def test_cache_that_cannot_be_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match="RTDETR_CACHE"):
        download(server.url)


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RTDETR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "rtdetr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "rtdetr"
    monkeypatch.setenv("RTDETR_CACHE", "~/elsewhere")
    assert cache_dir() == Path.home() / "elsewhere"


def test_progress_bar(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download(server.url)
    output = capsys.readouterr()
    assert "model.pth" in output.err and output.out == ""
