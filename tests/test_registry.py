"""The registry and its downloads, from a real HTTP server that breaks, lies, and goes on."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engines import registry
from engines.download import download
from engines.errors import DownloadFailed, EngineUnavailable, ModelError
from engines.zoo import find_model

CONTENT = bytes(range(256)) * 2000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Gives CONTENT; the test says how badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.break_after: list[int] = []
        """For each transfer to come: bytes after which the connection is cut."""
        self.ranges = True
        self.asked: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.onnx"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if self.path != "/weights.onnx":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.break_after.pop(0)] if server.break_after else body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMER_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


# --------------------------------------------------------------------------------------- download


def test_a_file_arrives_whole_and_is_told_about(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "weights.onnx"
    download(server.address, target, HASH, progress=lambda *now: seen.append(now))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in target.parent.iterdir()] == ["weights.onnx"]


def test_a_broken_transfer_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000, 50_000]
    download(server.address, tmp_path / "w", HASH)
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_one_that_breaks_again_and_again_keeps_what_came(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000] * 4
    with pytest.raises(DownloadFailed, match=r"broke 4 times.*4000 bytes are kept: run it again"):
        download(server.address, tmp_path / "w", HASH)
    assert not (tmp_path / "w").exists()
    download(server.address, tmp_path / "w", HASH)  # the remedy
    assert server.asked[-1] == "bytes=4000-"
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    server.break_after, server.ranges = [100_000], False
    download(server.address, tmp_path / "w", HASH)
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing_and_harms_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"the one before")
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DownloadFailed, match=rf"SHA-256 must begin with {HASH}, got .*don't use"):
        download(server.address, tmp_path / "w", HASH)
    assert (tmp_path / "w").read_bytes() == b"the one before"
    assert not (tmp_path / "w.part").exists()


def test_a_file_that_changed_between_two_tries_is_fetched_anew(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "w.part").write_bytes(b"the beginning of another file")
    download(server.address, tmp_path / "w", HASH)
    assert (tmp_path / "w").read_bytes() == CONTENT
    (tmp_path / "v.part").write_bytes(CONTENT)  # all of it came, and then the power went
    download(server.address, tmp_path / "v", HASH[:8])
    assert (tmp_path / "v").read_bytes() == CONTENT


def test_what_can_not_be_fetched_is_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="must give the file, got 404"):
        download(server.address.replace("weights", "other"), tmp_path / "w", HASH)
    with pytest.raises(ValueError, match="address must begin with http"):
        download("file:///etc/passwd", tmp_path / "w", HASH)
    with pytest.raises(ValueError, match="sha256 must be at least 8 hexadecimal digits"):
        download(server.address, tmp_path / "w", "abc")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadFailed, match="must be a folder that can be written"):
        download(server.address, tmp_path / "file" / "w", HASH)


# --------------------------------------------------------------------------------------- registry


def model(name: str) -> registry.Model:
    return registry.Model(name, "detect", "added", family="yolox", classes="a,b")


def test_public_models_have_an_address_a_licence_and_a_hash() -> None:
    public = [each for each in registry.models().values() if each.address]
    assert len(public) >= 8
    for each in public:
        assert each.address.startswith("https://")
        assert each.licence
        assert len(each.sha256) == 64 or each.sha256 in each.address.rpartition("-")[2]
    assert "tensorrt" not in registry.public("maskrcnn").runs_on
    assert "tensorrt" in registry.public("ssdlite").runs_on


def test_hashes_are_those_of_the_files_at_hand(data_dir: Path) -> None:
    files = {
        "yolox-nano": "yolox_nano_416_coco.onnx",
        "fastestdet": "FastestDet_352_coco.onnx",
        "osnet": "osnet_x0_25_msmt17.onnx",
    }
    for name, file in files.items():
        content = (data_dir / "weights" / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == registry.public(name).sha256


def test_what_is_stored_is_found_by_name(folder: Path) -> None:
    content = find_model("street").read_bytes()
    kept = registry.store(model("gate"), content)
    assert find_model("gate").read_bytes() == content
    assert registry.find("gate") == kept
    assert (kept.size_bytes, kept.classes) == (len(content), "a,b")
    registry.store(model("gate"), content[:100])
    assert find_model("gate").read_bytes() == content[:100]
    assert not list(folder.glob(".partial-*"))


def test_names_are_checked(folder: Path) -> None:
    for bad in ("Gate", "a/b", "", "-a", "gate.onnx"):
        with pytest.raises(ValueError, match="name must be small letters"):
            registry.store(model(bad), b"")
    with pytest.raises(ValueError, match="must not be a shipped network's, got 'street'"):
        registry.store(model("street"), b"")
    with pytest.raises(ModelError, match=r"gate: model must be one of street, .*engines list"):
        registry.find("gate")
    with pytest.raises(ModelError, match=r"public model must be one of yolox-nano, .*got 'yolox'"):
        registry.public("yolox")
    assert not folder.exists()


def test_damaged_records_and_folders_are_said(folder: Path) -> None:
    registry.store(model("gate"), b"x")
    (folder / "gate.json").write_text(json.dumps({"name": "gate"}))
    with pytest.raises(ModelError, match=r"gate\.json: record must say .*delete it and add"):
        registry.models()
    (folder / "gate.json").unlink()
    (folder / "gate.onnx").write_bytes(find_model("street").read_bytes())
    assert registry.find("gate").origin == "added"  # a file without a record is one too


def test_a_folder_that_can_not_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("STREAMER_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(EngineUnavailable, match="must lie in a folder that can be written"):
        registry.store(model("gate"), b"x")
