"""Downloading from a server on the loopback: what comes is checked before it has a name."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.core.errors import InputError
from training.data.download import CIFAR10, Archive, download

CONTENT = bytes(range(256)) * 9000  # more than two blocks


class _Handler(http.server.BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        if self.path == "/missing":
            self.send_error(404)
            return
        body = {"/good": CONTENT, "/long": CONTENT + b"x", "/other": CONTENT[::-1]}.get(
            self.path, CONTENT
        )
        self.send_response(200)
        if self.path != "/long":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    _Handler.requests = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield Archive(
        filename="a.tar.gz",
        url=f"http://127.0.0.1:{server.server_port}/good",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
    )
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_checks_and_names_the_file(archive: Archive, tmp_path: Path) -> None:
    seen: list[int] = []
    path = download(archive, tmp_path / "new" / "data", progress=seen.append)
    assert path == tmp_path / "new" / "data" / "a.tar.gz"
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert sum(seen) == len(CONTENT)
    assert len(seen) > 1
    download(archive, tmp_path / "new" / "data")
    assert _Handler.requests == 1  # it was there already


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("missing", "cannot download .*404|cannot download .*Not Found"),
        ("cut", r"expected 2,304,000 bytes, got 1,152,000|cannot download"),
        ("long", "got more"),
        ("other", "expected SHA-256"),
    ],
)
def test_a_wrong_answer_leaves_nothing(
    archive: Archive, tmp_path: Path, page: str, message: str
) -> None:
    wrong = replace(archive, url=archive.url.replace("good", page))
    with pytest.raises(InputError, match=message):
        download(wrong, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_server(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot download .*by hand"):
        download(replace(archive, url="http://127.0.0.1:9/a"), tmp_path, timeout_s=5)
    assert list(tmp_path.iterdir()) == []


def test_only_http(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an http or https address"):
        download(replace(archive, url="file:///etc/hostname"), tmp_path)


def test_a_file_of_that_name_is_never_overwritten(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"mine")
    with pytest.raises(InputError, match="is not the official file"):
        download(archive, tmp_path)
    assert (tmp_path / "a.tar.gz").read_bytes() == b"mine"
    assert _Handler.requests == 0


def test_a_folder_that_cannot_be_made(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write"):
        download(archive, tmp_path / "file" / "data")


def test_the_official_archive_is_fully_named() -> None:
    assert CIFAR10.url.startswith("https://")
    assert len(bytes.fromhex(CIFAR10.sha256)) == 32
    assert CIFAR10.filename == "cifar-10-python.tar.gz"
