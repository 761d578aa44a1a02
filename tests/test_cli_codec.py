"""`streamer codec`: recordings are written, looked at, read back and compared from the shell."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import pytest
import torch

from engines.codec.export import export_model
from engines.codec.player import Recorder
from engines.codec.records import Header
from engines.codec.rt import RtCodec
from engines.codec.runtime import RtRuntime
from engines.codec.writer import LvcWriter
from streamer.cli.main import main

sys.path.append(str(Path(__file__).parent / "codec"))
from codec_tiny import TINY, moving_pictures

SCENE = "synthetic:street?seed=1&size=320x192&fps=10&seconds=1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny codec as training would find it: cosine transforms, which draw fair pictures."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model")
    export_model(RtCodec(TINY), folder)
    return str(folder)


@pytest.fixture(scope="module")
def recording(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "street.lvc"
    assert main(["codec", "encode", SCENE, str(path), "--model", model, "--quality", "40"]) == 0
    return path


def test_info_says_what_is_there(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codec", "info", str(recording), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["codec"], found["picture"]) == ("rt-tiny", "320x192")
    assert (found["frames"], found["intra"], found["whole"], found["damages"]) == (10, 1, True, 0)
    assert found["seconds"] == 0.9
    assert found["bytes"] == recording.stat().st_size
    assert found["kbps"] == pytest.approx(recording.stat().st_size / 125 / 0.9, abs=0.1)


def test_a_recording_becomes_a_video_that_anything_plays(
    recording: Path, model: str, tmp_path: Path
) -> None:
    out = tmp_path / "street.mp4"
    assert main(["codec", "decode", str(recording), str(out), "--model", model]) == 0
    with av.open(str(out)) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    assert times == pytest.approx([n / 10 for n in range(10)], abs=1e-3)


def test_a_recording_becomes_raw_pictures(recording: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "street.yuv"
    assert main(["codec", "decode", str(recording), str(out), "--model", model]) == 0
    assert out.stat().st_size == 10 * 320 * 192 * 3 // 2


def test_a_recording_of_two_sizes_is_told_and_becomes_a_video_of_one(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec, path = RtRuntime(model), tmp_path / "sizes.lvc"
    header = Header("rt-tiny", codec.model_hash, 160, 96, Fraction(1, 25), 96, 32)
    with LvcWriter(path, header) as writer, Recorder(codec, writer, quality=40) as recorder:
        for number, size in enumerate([(160, 96), (160, 96), (96, 96), (96, 96)]):
            recorder.add(moving_pictures(1, *size)[0], pts=number, capture_ns=number)
    assert main(["codec", "info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["picture"] == "160x96, 96x96"
    for out in (tmp_path / "out.mp4", tmp_path / "out.yuv"):
        assert main(["codec", "decode", str(path), str(out), "--model", model]) == 0
    assert (tmp_path / "out.yuv").stat().st_size == 4 * 160 * 96 * 3 // 2
    with av.open(str(tmp_path / "out.mp4")) as container:
        pictures = [f.to_ndarray(format="yuv420p")[:96] for f in container.decode(video=0)]
    assert len(pictures) == 4
    assert pictures[1][:, :24].mean() > 40
    assert pictures[3][:, :24].mean() < 24


@pytest.mark.parametrize("name", ["out.mp4", "out.yuv"])
def test_a_recording_without_frames_is_refused_and_overwrites_nothing(
    name: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = RtRuntime(model)
    header = Header("rt-tiny", codec.model_hash, 64, 64, Fraction(1, 25), 96, 32)
    with LvcWriter(tmp_path / "empty.lvc", header):
        pass
    out = tmp_path / name
    out.write_bytes(b"of before")
    command = ["codec", "decode", str(tmp_path / "empty.lvc"), str(out), "--model", model]
    assert main(command) == 3
    assert "empty.lvc: holds no frame that can be read; nothing was written" in (
        capsys.readouterr().err
    )
    assert out.read_bytes() == b"of before"


def test_recordings_are_compared_with_their_source(
    recording: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = tmp_path / "worse.lvc"
    command = ["codec", "encode", SCENE, str(worse), "--model", model]
    assert main([*command, "--quality", "2", "--size", "160x96"]) == 0
    capsys.readouterr()
    sheet = tmp_path / "sheet.png"
    command = ["codec", "compare", str(recording), str(worse), "--reference", SCENE]
    assert main([*command, "--model", model, "--picture", str(sheet), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    good, bad = found["recordings"]
    assert found["frames"] == 10
    assert good["kbps"] > 2 * bad["kbps"]
    assert good["psnr_yuv_db"] > bad["psnr_yuv_db"] + 1
    assert 0 < bad["ms_ssim"] < good["ms_ssim"] < 1
    assert cv2.imread(str(sheet)).shape == (2 * 192, 3 * 320, 3)


@pytest.mark.parametrize("tool", ["info", "decode"])
def test_what_is_no_recording_is_refused(
    tool: str, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {
        "nothing.lvc": (None, "check the path"),
        "empty.lvc": (b"", "not an .lvc file"),
        "other.lvc": (b"RIFF....AVI ", "not an .lvc file"),
        "newer.lvc": (
            recording.read_bytes()[:8] + b"\x09" + recording.read_bytes()[9:],
            "version must be 3, got 9; update this program",
        ),
        "cut.lvc": (recording.read_bytes()[:30], "the header is damaged or cut off"),
    }
    for name, (data, text) in wanted.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        arguments = [str(path)] if tool == "info" else [str(path), str(tmp_path / "a.mp4")]
        assert main(["codec", tool, *arguments]) == 3
        assert text in capsys.readouterr().err


def test_another_model_is_named(
    recording: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["codec", "decode", str(recording), str(tmp_path / "a.mp4")]) == 3
    assert "written with rt-tiny " in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(model).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "weights.bin").write_bytes((other / "weights.bin").read_bytes() + b"\0")
    command = ["codec", "decode", str(recording), str(tmp_path / "a.mp4"), "--model", str(other)]
    assert main(command) == 3
    assert "load the model that it was written with" in capsys.readouterr().err


def test_damage_costs_frames_and_is_said(
    recording: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(recording.read_bytes())
    data[len(data) // 2] ^= 0x55
    hurt = tmp_path / "hurt.lvc"
    hurt.write_bytes(data)
    out = tmp_path / "hurt.yuv"
    assert main(["codec", "decode", str(hurt), str(out), "--model", model]) == 0
    assert 0 < out.stat().st_size < 10 * 320 * 192 * 3 // 2
    assert "1 damaged parts left out" in capsys.readouterr().err


def test_wrong_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a.lvc")
    assert main(["codec", "encode", SCENE, out, "--size", "wide"]) == 2
    assert "--size: must be WIDTHxHEIGHT, got 'wide'" in capsys.readouterr().err
    assert main(["codec", "encode", SCENE, out, "--model", str(tmp_path)]) == 2
    assert "no such file; make it with engines.codec.export" in capsys.readouterr().err
    assert not Path(out).exists()
