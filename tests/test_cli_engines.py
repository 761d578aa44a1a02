"""`streamer engines`: what its commands say, do and refuse, on real networks and a server."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engines.detectors.runtime import Detector
from engines.zoo import find_model
from streamer.cli import main

SCENE = "synthetic:street?seed=3&size=640x360"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMER_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "models"


def engines(*arguments: str) -> int:
    return main(["engines", *arguments])


def copy_of_street(tmp_path: Path) -> Path:
    path = tmp_path / "mine.onnx"
    path.write_bytes(find_model("street").read_bytes())
    return path


# ------------------------------------------------------------------------------------ list, add


def test_list_says_where_networks_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert engines("list") == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["street"][1:4] == ["shipped", "detect", "detector"]
    assert {"yolox-nano", "ssdlite", "maskrcnn"} <= lines.keys()
    assert "yes" in lines["ssdlite"]
    assert "no" in lines["maskrcnn"]
    assert engines("list", "--json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    mask = next(each for each in listed if each["name"] == "maskrcnn")
    assert mask["runs_on"] == ["openvino", "onnxruntime"]


def test_an_added_network_is_a_detector_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engines("add", str(copy_of_street(tmp_path)), "--name", "gate") == 0
    out = capsys.readouterr().out
    assert "gate: detect, streamer.detector, classes person, bicycle" in out
    assert "--detector gate" in out
    detector = Detector.load("gate", device="onnxruntime:cpu")
    assert detector.classes[0] == "person"
    detector.close()
    assert engines("list", "--json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert next(e for e in listed if e["name"] == "gate")["origin"] == "added"


def test_names_of_classes_are_written_into_the_copy(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = data_dir / "weights" / "yolox_nano_416_coco.onnx"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"kind {n}" for n in range(79)))
    assert engines("add", str(weights), "--name", "mine", "--classes", str(names)) == 2
    assert "must be 80 names of classes, as the outputs say, got 79" in capsys.readouterr().err
    names.write_text("\n".join(f"kind {n}" for n in range(80)))
    assert engines("add", str(weights), "--name", "mine", "--classes", str(names), "--json") == 0
    assert json.loads(capsys.readouterr().out)["family"] == "yolox"
    detector = Detector.load("mine", device="openvino:cpu")  # reads the appended metadata too
    assert detector.classes[79] == "kind 79"
    detector.close()


def test_what_is_no_network_is_refused_and_nothing_is_kept(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "text.onnx": (b"hello, I am no network", "file must be an ONNX model"),
        "cut.onnx": (
            find_model("street").read_bytes()[:100_000],
            "file must be a whole ONNX model",
        ),
    }
    for name, (content, text) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert engines("add", str(tmp_path / name), "--name", "gate") == 2
        assert text in capsys.readouterr().err
    assert engines("add", str(tmp_path / "absent.onnx")) == 2
    assert "absent.onnx: model file must be readable" in capsys.readouterr().err
    assert engines("add", str(copy_of_street(tmp_path)), "--name", "street") == 2
    assert "must not be a shipped network's" in capsys.readouterr().err
    assert not folder.exists()


# ----------------------------------------------------------------------------------------- pull


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    served = tmp_path / "served"
    served.mkdir()
    handler = partial(Quiet, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_pull_fetches_checks_and_keeps(
    data_dir: Path, mirror: tuple[Path, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served, address = mirror
    content = (data_dir / "weights" / "FastestDet_352_coco.onnx").read_bytes()
    (served / "f.onnx").write_bytes(content[:-1] + b"!")
    assert engines("pull", "fastestdet", "--address", f"{address}/f.onnx") == 3
    assert "SHA-256 must begin with 31cb14c0" in capsys.readouterr().err
    assert not list(folder.glob("*.onnx"))
    (served / "f.onnx").write_bytes(content)
    assert engines("pull", "fastestdet", "--address", f"{address}/f.onnx") == 0
    told = capsys.readouterr()
    assert "fastestdet: detect, fastestdet, classes person, bicycle" in told.out
    assert "100%" in told.err
    assert engines("list", "--json") == 0
    listed = {e["name"]: e for e in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed["fastestdet"]["origin"] == "pulled"
    assert listed["fastestdet"]["licence"] == "BSD-3-Clause"
    assert listed["fastestdet"]["sha256"] == hashlib.sha256(content).hexdigest()
    detector = Detector.load("fastestdet", device="onnxruntime:cpu")
    assert detector.signature.family == "fastestdet"
    detector.close()
    assert not list((folder / "downloads").iterdir())


def test_what_is_not_there_can_not_be_pulled(
    mirror: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert engines("pull", "osnet", "--address", f"{mirror[1]}/absent.onnx") == 3
    assert "server must give the file, got 404" in capsys.readouterr().err
    assert engines("pull", "nonsense") == 2
    assert "public model must be one of yolox-nano" in capsys.readouterr().err


# -------------------------------------------------------------------------- build, bench, verify


def test_build_quantises_on_the_users_pictures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engines("build", "street", "--precision", "int8", "--device", "cpu") == 2
    assert "must have Q/DQ nodes for int8, got none; give --calibrate" in capsys.readouterr().err
    asked = ("build", "street", "--precision", "int8", "--device", "cpu", "--json")
    assert engines(*asked, "--calibrate", f"{SCENE}&seconds=0.5") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["quantised"] == "street-int8"
    assert told["size_bytes"] < 0.4 * find_model("street").stat().st_size
    assert (folder / "street-int8.onnx").is_file()
    assert engines("verify", "street-int8", "--on", SCENE, "--pictures", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["boxes"] >= 10
    assert found["passed"]


def test_verify_compares_with_the_oracle(capsys: pytest.CaptureFixture[str]) -> None:
    assert engines("verify", "street", "--on", SCENE, "--pictures", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert found["pictures"] == 2
    assert 0 <= found["outputs"]["rows"] <= 1e-3
    assert engines("verify", "street", "--pictures", "0") == 2
    assert "--pictures: must be at least 1" in capsys.readouterr().err


def test_bench_gives_a_row_for_each_network_and_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert engines("bench", "street", "--batch", "1,2", "--seconds", "0.1", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["batch"] for row in rows] == [1, 2]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] and row["calls"] >= 5 for row in rows)
    with pytest.raises(SystemExit, match="2"):
        engines("bench", "street", "--batch", "0")
    assert engines("bench", "nonsense") == 2
    assert "model must be one of street" in capsys.readouterr().err


def test_build_for_a_gpu_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("there is a GPU; building for it is tested with the gpu marker")
    assert engines("build", "street", "--device", "cuda:0", "--precision", "fp16") == 2
    assert "NVIDIA driver" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "list", "pull", "add", "build", "bench", "verify"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        engines(*[command] if command else [], "--help")
    assert "Exit codes:" in capsys.readouterr().out
