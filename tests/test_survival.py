"""Real processes are killed, frozen and starved; the pipeline goes on and says what it lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import av
import psutil
import pytest
from pipeline import Run, assert_no_gaps, play, segments, wait_for

SCENE = "synthetic:street?seed=3&size=320x240&fps=15"
LIVE = "camera1"


@pytest.fixture
def detector(data_dir: Path) -> Path:
    return data_dir / "weights" / "FastestDet_352_coco.onnx"


def start(folder: Path, detector: Path, *more: object) -> Run:
    return Run(folder, SCENE, "--live", "--detector", detector, "--record", folder / "rec", *more)


def frames_recorded(folder: Path) -> int:
    return sum(len(play(path)) for path in segments(folder / "rec"))


def frames_so_far(folder: Path) -> int:
    """The same while it is being written; a file holds nothing before its first part is whole."""
    try:
        return frames_recorded(folder)
    except av.InvalidDataError:
        return 0


@pytest.mark.parametrize("stage", ["infer", f"track.{LIVE}", "publish"])
def test_recording_is_whole_while_a_stage_is_killed(tmp_path, detector, stage):
    with start(tmp_path, detector) as run:
        run.wait_event("detection", count=5)
        victim = run.stage(stage)
        victim.kill()
        killed_at = time.monotonic()
        run.wait_event("stage.restarted", stage=stage)
        assert time.monotonic() - killed_at < 3.0
        seen = len([e for e in run.events() if e["type"] == "detection"])
        run.wait_event("detection", count=seen + 5)
        summary = run.stop()
    assert summary["restarts"] == 1
    assert summary["frames_out"] == summary["frames_in"] == frames_recorded(tmp_path)
    assert_no_gaps(run.events())


def test_killed_publish_says_what_may_be_lost_first(tmp_path, detector):
    with start(tmp_path, detector) as run:
        run.wait_event("detection", count=3)
        before = len(run.events())
        run.stage("publish").kill()
        run.wait_event("stage.restarted", stage="publish", camera=LIVE)
        run.stop()
    after = [event for event in run.events()[before:] if event["camera"] == LIVE]
    first = next(i for i, event in enumerate(after) if event["type"] == "stage.restarted")
    assert all("lost_from" in event for event in after[first : first + 1])
    assert_no_gaps(run.events())


def test_encode_comes_back_with_a_new_segment(tmp_path, detector):
    with start(tmp_path, detector) as run:
        run.wait_event("recording.started")
        run.wait_event("detection", count=10)
        run.stage(f"encode.{LIVE}").kill()
        run.wait_event("recording.started", count=2)
        run.wait_event("detection", count=20)
        summary = run.stop()
    files = list(segments(tmp_path / "rec"))
    assert len(files) == 2
    lost = summary["frames_in"] - sum(len(play(path)) for path in files)
    assert lost < 3 * 15
    assert_no_gaps(run.events())


def test_decode_comes_back_and_media_time_goes_on(tmp_path, detector):
    with start(tmp_path, detector) as run:
        run.wait_event("detection", count=10)
        run.stage(f"decode.{LIVE}").kill()
        run.wait_event("stage.restarted", stage=f"decode.{LIVE}")
        run.wait_event("stream.up", count=2)
        run.wait_event("detection", count=20)
        run.stop()
    detections = [event for event in run.events() if event["type"] == "detection"]
    frames = [event["frame"] for event in detections]
    times = [event["pts_s"] for event in detections]
    assert frames == sorted(set(frames))
    assert times == sorted(set(times))
    ids = [event["track_id"] for event in run.events() if event["type"] == "track.started"]
    assert len(ids) == len(set(ids))
    assert_no_gaps(run.events())


def test_a_frozen_stage_is_replaced(tmp_path, detector):
    with start(tmp_path, detector) as run:
        run.wait_event("detection", count=3)
        frozen = run.stage("infer")
        frozen.suspend()
        run.wait_event("stage.restarted", stage="infer", cause="killed by SIGKILL")
        assert not frozen.is_running() or frozen.status() == psutil.STATUS_ZOMBIE
        seen = len([e for e in run.events() if e["type"] == "detection"])
        run.wait_event("detection", count=seen + 3)
        summary = run.stop()
    assert summary["frames_out"] == summary["frames_in"] == frames_recorded(tmp_path)


def test_a_stage_that_dies_too_often_is_given_up_and_the_recording_goes_on(tmp_path, detector):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"cameras: {{{LIVE}: '{SCENE}'}}\n"
        f"detector: {{model: {detector}}}\n"
        "supervisor: {restarts: 1}\n"
    )
    with Run(tmp_path, config, "--live", "--record", tmp_path / "rec") as run:
        run.wait_event("detection")
        run.stage("infer").kill()
        run.wait_event("stage.restarted", stage="infer")
        run.stage("infer").kill()
        run.wait_event("stage.failed", stage="infer")
        before = wait_for(lambda: frames_so_far(tmp_path), "the first part of the recording")
        wait_for(lambda: frames_so_far(tmp_path) > before + 15, "recording without inference")
        run.process.send_signal(signal.SIGINT)
        run.process.wait(10)
        assert run.process.returncode == 4
        assert "infer: died 2 times within 60 s" in run.log_file.read_text()


def test_nothing_is_left_when_the_whole_group_is_killed(tmp_path, detector):
    with start(tmp_path, detector) as run:
        run.wait_event("recording.started")
        run.wait_event("detection", count=20)
        processes = [psutil.Process(run.process.pid), *run.children()]
        assert len(processes) == 6
        recorded_until = max(
            event["pts_s"] for event in run.events() if event["type"] == "detection"
        )
        os.killpg(run.process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=5)
        assert not alive
    (file,) = segments(tmp_path / "rec")
    assert play(file)[-1] >= recorded_until - 1.0
    assert not sockets_of(run)


def test_the_stages_die_with_their_supervisor(tmp_path, detector):
    with start(tmp_path, detector) as run:
        run.wait_event("detection")
        children = run.children()
        run.process.kill()
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive


def test_second_interrupt_ends_at_once(tmp_path, detector):
    with start(tmp_path, detector) as run:
        run.wait_event("detection")
        children = run.children()
        run.stage("infer").suspend()  # so that the first one would take its time
        run.process.send_signal(signal.SIGINT)
        wait_for(lambda: "ask again" in run.log_file.read_text(), "the first interrupt is heard")
        run.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        run.process.wait(5)
        assert time.monotonic() - begun < 1.5
        assert run.process.returncode == 130
        _, alive = psutil.wait_procs(children, timeout=2)
        assert not alive


def test_stops_within_the_ladder_when_a_stage_is_frozen(tmp_path, detector):
    with start(tmp_path, detector) as run:
        run.wait_event("recording.started")
        run.wait_event("detection")
        run.stage("infer").suspend()
        begun = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        run.process.wait(8)
        assert time.monotonic() - begun < 5.0
    assert frames_recorded(tmp_path) > 0


@pytest.mark.slow
def test_twenty_cycles_leave_nothing_behind(tmp_path, detector):
    before = psutil.Process().num_fds()
    for _ in range(20):
        with start(tmp_path, detector) as run:
            run.wait_event("stream.up")
            children = run.children()
            run.stop()
            _, alive = psutil.wait_procs(children, timeout=1)
            assert not alive
        assert not sockets_of(run)
        run.events_file.unlink()
    assert psutil.Process().num_fds() <= before


def sockets_of(run: Run) -> list[str]:
    """Abstract sockets that carry the run's id, with which every event's id begins."""
    identities = {str(event["id"]).partition("-")[0] for event in run.events()}
    assert len(identities) == 1
    lines = Path("/proc/net/unix").read_text().splitlines()
    return [line for line in lines if f"@{identities.copy().pop()}." in line]
