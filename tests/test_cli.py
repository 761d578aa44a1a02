"""What a user types and what comes back: results, exit codes, one clear error for what is wrong."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from pipeline import Run, assert_no_gaps, play, streamer

SCENE = "synthetic:street?seed=4&size=320x240&fps=10&seconds=4"


@pytest.fixture
def detector(data_dir: Path) -> Path:
    return data_dir / "weights" / "FastestDet_352_coco.onnx"


@pytest.fixture(scope="module")
def highway(data_dir: Path) -> Path:
    return data_dir / "video" / "highway_320x240.avi"


def test_a_file_is_played_to_its_end(tmp_path, detector, highway):
    out = tmp_path / "out.mp4"
    with Run(tmp_path, highway, "--out", out, "--detector", detector, "--duration", 6) as run:
        summary = run.finish()
    assert summary["frames_in"] == summary["frames_out"] == 150
    assert summary["frames_dropped"] == {}
    assert summary["restarts"] == 0
    assert summary["fps"] > 0
    assert set(summary["latency_ms"]) == {"p50", "p95", "p99"}
    assert summary["cameras"]["highway_320x240"]["frames_out"] == 150
    times = play(out)
    assert len(times) == 150
    for number, time_s in enumerate(times):
        assert time_s - times[0] == pytest.approx(number / 25, abs=1e-3)
    events = run.events()
    assert_no_gaps(events)
    assert summary["events"] == len(events)
    expected = {"stream.up", "stream.down", "detection", "recording.started", "recording.segment",
                "recording.ended", "heartbeat", "track.started"}  # fmt: skip
    assert expected <= {event["type"] for event in events}
    down = next(event for event in events if event["type"] == "stream.down")
    assert down["reason"] == "stopped"


@pytest.mark.parametrize("killed", [None, "infer", "track", "publish", "decode"])
def test_offline_results_are_equal_whatever_dies(tmp_path, detector, killed, reference):
    with Run(tmp_path, SCENE, "--detector", detector, "--out", tmp_path / "o.mp4") as run:
        if killed:
            run.wait_event("detection", count=4)
            run.stage(killed if killed in ("infer", "publish") else f"{killed}.camera1").kill()
        summary = run.finish()
    assert summary["frames_out"] == len(play(tmp_path / "o.mp4")) == 40
    assert found(run.events()) == reference[0]
    if killed is None:
        assert tracks(run.events()) == reference[1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data_dir) -> tuple[list[object], list[object]]:
    """The detections and tracks of an undisturbed run."""
    folder = tmp_path_factory.mktemp("reference")
    detector = data_dir / "weights" / "FastestDet_352_coco.onnx"
    with Run(folder, SCENE, "--detector", detector, "--out", folder / "o.mp4") as run:
        run.finish()
    assert len(found(run.events())) > 10
    return found(run.events()), tracks(run.events())


def found(events: list[dict[str, object]]) -> list[object]:
    """Detections by frame, once each (a frame may be told twice only after a crash of publish)."""
    by_frame = {e["frame"]: (e["pts_s"], e["objects"]) for e in events if e["type"] == "detection"}
    return sorted(by_frame.items())


def tracks(events: list[dict[str, object]]) -> list[object]:
    """Track events without what the wall clock says."""
    clock = ("id", "seq", "time_utc")
    return [
        {key: value for key, value in event.items() if key not in clock}
        for event in events
        if str(event["type"]).startswith("track.")
    ]


def test_demo_needs_nothing_but_a_detector(tmp_path, detector):
    out = tmp_path / "demo.mp4"
    done = streamer("demo", "--detector", detector, "--out", out, "--duration", 2)
    assert done.returncode == 0, done.stderr
    assert f"annotated video: {out}" in done.stdout
    assert "restarts: 0" in done.stdout
    assert len(play(out)) == 50


BAD = {
    "no such file": (["run", "nowhere.mp4"], 3, r"no such file"),
    "not a video": (["run", __file__], 3, r"test_cli\.py: .*not a video|no video"),
    "unknown option": (["run", "0", "--colour"], 2, r"unrecognized arguments: --colour"),
    "unknown command": (["rum"], 2, r"invalid choice: 'rum'"),
    "unknown scheme": (["run", "rtps://host/x"], 2, r"unknown scheme 'rtps'; did you mean rtsp"),
    "unknown scene option": (["run", "synthetic:street?sead=1"], 2, r"did you mean 'seed'|seed"),
    "source twice": (["run", "0", "0"], 2, r"source given twice: 0"),
    "no config": (["run", "nowhere.yaml"], 2, r"nowhere\.yaml: can't be read"),
    "two sources, one output": (["run", "0", "1", "--out", "o.mp4"], 2, r"use --record DIR"),
    "open to others": (
        ["run", "0", "--publish", "tcp://0.0.0.0:5560"],
        2,
        r"use tcp://127\.0\.0\.1",
    ),
    "bad duration": (["run", "0", "--duration", "-1"], 2, r"--duration: must be above 0, got -1"),
    "no detector": (["run", SCENE, "--detector", "nothing"], 2, r"nothing: model must be one of"),
    "output in no folder": (["run", SCENE, "--out", "/nowhere/o.mp4"], 2, r"there is no folder"),
    "output is a folder": (["run", SCENE, "--out", "/tmp"], 2, r"this is a folder"),
    "secret not set": (["run", "rtsp://u:${NO_SUCH_VARIABLE}@h/s"], 2, r"NO_SUCH_VARIABLE"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(tmp_path, detector, case):
    arguments, code, text = BAD[case]
    if arguments[0] == "run" and "--detector" not in arguments:
        arguments = [*arguments, "--detector", detector]
    done = streamer(*arguments)
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stderr
    assert re.search(text, errors[0]), errors[0]
    assert "Traceback" not in done.stderr


def test_wrong_configurations_name_file_line_and_remedy(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("cameras:\n  gate:\n    sorce: 0\n")
    done = streamer("run", config)
    assert done.returncode == 2
    assert f"{config}:3: cameras.gate.sorce: unknown key; did you mean 'source'?" in done.stderr


@pytest.mark.parametrize("output", ["--out", "--record"])
def test_a_full_disk_is_told_and_what_was_flushed_plays(tmp_path, detector, small_disk, output):
    where = small_disk / "o.mp4" if output == "--out" else small_disk
    config = tmp_path / "c.yaml"
    config.write_text(
        "cameras: {camera1: 'synthetic:street?seed=4&size=320x240&fps=25&seconds=6'}\n"
        "encode: {preset: ultrafast, crf: 4}\n"  # soon full
    )
    with Run(tmp_path, config, output, where, "--detector", detector) as run:
        run.process.communicate(timeout=90)
        assert run.process.returncode == 4
    failed = next(e for e in run.events() if e["type"] == "recording.failed")
    assert "No space left on device" in str(failed["message"])
    assert "No space left on device" in run.log_file.read_text()
    ended = next(e for e in run.events() if e["type"] == "recording.segment")
    assert ended["finished"] is False
    assert len(play(Path(str(ended["path"])))) == ended["frames"] >= 25


def test_pools_larger_than_the_memory_are_refused(tmp_path, detector):
    frames = tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "1.png"), np.zeros((10_000, 10_000), np.uint8))
    config = tmp_path / "c.yaml"
    config.write_text(
        f"cameras: {{huge: {frames}}}\n"
        f"detector: {{model: {detector}}}\n"
        f"record: {{folder: {tmp_path / 'rec'}}}\n"
        "encode: {join_frames: 250}\n"
    )
    done = streamer("run", config)
    assert done.returncode == 4
    assert re.search(r"pool:huge: \d+ MB of shared memory are needed, \d+ MB are", done.stderr)
    assert "use fewer or smaller cameras" in done.stderr


def test_credentials_are_nowhere(tmp_path, detector):
    uri = "rtsp://admin:hunter2@127.0.0.1:1/stream"
    with Run(tmp_path, uri, "--detector", detector, "--duration", 3) as run:
        run.wait_event("stream.down")
        run.process.send_signal(signal.SIGINT)
        out, _ = run.process.communicate(timeout=15)
    everything = run.log_file.read_text() + run.events_file.read_text() + out.decode()
    assert "hunter2" not in everything
    assert "refused" in everything


def test_schema_describes_the_events_of_a_run(tmp_path, detector):
    schema = jsonschema.Draft202012Validator(json.loads(streamer("schema").stdout))
    with Run(tmp_path, SCENE, "--detector", detector, "--duration", 1) as run:
        run.finish()
    for event in run.events():
        schema.validate(event)


def test_doctor_finds_nothing_missing():
    done = streamer("doctor")
    assert done.returncode == 0, done.stdout
    assert "openvino" in done.stdout


def test_check_says_the_plan_and_runs_nothing(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(f"cameras: {{a: '{SCENE}', b: {tmp_path / 'no.mp4'}}}\n")
    done = streamer("check", config)
    assert done.returncode == 3
    assert "camera a: synthetic:street" in done.stdout
    assert "no such file" in done.stdout


def test_probe_measures_a_file(highway):
    found = json.loads(streamer("probe", highway, "--json").stdout)
    assert found["info"]["width"] == 320
    assert found["measured"]["fps"] == pytest.approx(25, abs=0.1)
