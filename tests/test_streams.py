"""The whole pipeline on streams that stop, freeze, jump, change their size and are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from media import write_video
from pipeline import Run, assert_no_gaps, play, segments
from rtsp import RtspServer


@pytest.fixture
def detector(data_dir: Path) -> Path:
    return data_dir / "weights" / "FastestDet_352_coco.onnx"


@pytest.fixture(scope="module")
def crowd(data_dir: Path) -> Path:
    return data_dir / "video" / "walking_crowd_720p.mp4"


def test_a_camera_that_is_frozen_and_replaced_is_recorded_again(tmp_path, detector, crowd):
    record = tmp_path / "rec"
    with RtspServer(crowd) as server:
        run = Run(tmp_path, server.url, "--record", record, "--detector", detector)
        with run:
            run.wait_event("detection", count=5)
            server.freeze()
            run.wait_event("stream.down", reason="stalled")
            server.kill()
            with RtspServer(crowd, port=server.port):
                run.wait_event("stream.up", count=2, timeout_s=40)
                seen = len([event for event in run.events() if event["type"] == "detection"])
                run.wait_event("detection", count=seen + 5)
                summary = run.stop()
    assert summary["restarts"] == 0
    events = run.events()
    assert_no_gaps(events)
    times = [event["pts_s"] for event in events if event["type"] == "detection"]
    assert times == sorted(times)
    files = list(segments(record))
    assert len(files) >= 2  # the media clock jumped, so a new segment began
    assert sum(len(play(path)) for path in files) == summary["frames_out"]


def test_dead_cameras_do_not_delay_the_others(tmp_path, detector):
    config = tmp_path / "c.yaml"
    config.write_text(
        "cameras:\n"
        "  dead: rtsp://127.0.0.1:9/stream\n"
        "  alive: {source: 'synthetic:street?size=320x240&fps=10', regime: live}\n"
    )
    with Run(tmp_path, config, "--detector", detector) as run:
        run.wait_event("stream.down", camera="dead", reason="refused")
        run.wait_event("detection", camera="alive", count=10)
        summary = run.stop()
    assert summary["cameras"]["dead"]["frames_in"] == 0
    assert summary["cameras"]["alive"]["frames_dropped"].keys() <= {"infer_busy"}


def test_a_size_change_goes_on_letterboxed_and_in_a_new_segment(tmp_path, detector):
    small = write_video(tmp_path / "a.264", frames=40, size=(320, 240))
    large = write_video(tmp_path / "b.264", frames=40, size=(480, 272))
    both = tmp_path / "both.264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    out, record = tmp_path / "o.mp4", tmp_path / "rec"
    with Run(tmp_path, both, "--out", out, "--record", record, "--detector", detector) as run:
        summary = run.finish()
    assert summary["frames_in"] == summary["frames_out"] == 80
    assert len(play(out)) == 80
    assert [len(play(path)) for path in segments(record)] == [40, 40]
    changed = next(event for event in run.events() if event["type"] == "recording.changed")
    assert "frames are 480x272 from here on, letterboxed to 320x240" in changed["message"]


@pytest.mark.parametrize(
    ("name", "frames", "lost"),
    [
        ("BA_MW_D_IDR_LOST.264", 70, {"corrupt_frames": 0, "skipped_frames": 27}),
        ("Error_I_P.264", 1, {"corrupt_frames": 5, "skipped_frames": 0}),
        # The decoder conceals this one and says nothing.
        ("BA_MW_D_P_LOST.264", 99, {"corrupt_frames": 0, "skipped_frames": 0}),
    ],
)
def test_damaged_streams_are_reported_and_the_rest_plays(
    tmp_path, data_dir, detector, name, frames, lost
):
    out = tmp_path / "o.mp4"
    stream = data_dir / "streams" / name
    with Run(tmp_path, stream, "--out", out, "--detector", detector) as run:
        summary = run.finish()
    assert summary["frames_out"] == len(play(out)) == frames
    damage = [event for event in run.events() if event["type"] == "stream.damaged"]
    assert {key: sum(event[key] for event in damage) for key in lost} == lost
    assert_no_gaps(run.events())
