"""Actions and segmentation in real processes: exact offline, out of the way live, soon back."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from annotators import save_brightness, save_segmenter, write_flashes
from pipeline import Run, assert_no_gaps, play, segments, streamer, wait_for

from engines.cascade.classes import CAMVID_CLASSES
from streamer.graph import ANNOTATOR_CREDITS

SCENE = "synthetic:street?seed=3&size=320x240&fps=15"
BOTH = ("act", "segment")
_OF_THIS_RUN = ("id", "seq", "time_utc")
Event = dict[str, Any]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    save_brightness(folder / "scene.onnx")
    save_brightness(folder / "person.onnx", scope="track")
    save_segmenter(folder / "segmenter")
    return folder


def scene(folder: Path, networks: Path, camera: dict[str, object], **sections: object) -> Path:
    """One camera, with both stages."""
    config = {
        "cameras": {"gate": camera},
        "actions": {"model": str(networks / "scene.onnx"), "min_s": 0.25},
        "segmenter": {"model": str(networks / "segmenter"), "per_s": 5},
        **sections,
    }
    path = folder / "scene.yaml"
    path.write_text(json.dumps(config))
    return path


def gated(source: str = SCENE) -> dict[str, object]:
    """A camera with a zone that is everywhere, and one that is on some surfaces."""
    everywhere = [[0, 0], [1, 0], [1, 1], [0, 1]]
    return {
        "source": source,
        "regime": "offline",
        "zones": {
            "all": {"polygon": everywhere},
            "some": {"polygon": everywhere, "on": list(CAMVID_CLASSES[:6])},
            "any": {"polygon": everywhere, "on": list(CAMVID_CLASSES)},
        },
    }


def told(run: Run) -> dict[str, list[Event]]:
    """Events by type and in order, without what differs from run to run."""
    by_type: dict[str, list[Event]] = defaultdict(list)
    for event in run.events():
        if event.get("pts_s") is not None:
            kept = {key: value for key, value in event.items() if key not in _OF_THIS_RUN}
            by_type[str(event["type"])].append(kept)
    return by_type


def test_two_runs_of_a_file_give_equal_events(tmp_path: Path, networks: Path) -> None:
    runs = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        config = scene(
            folder, networks, {**gated(), "out": str(folder / "out.mp4")}, duration_s=4,
            actions={"model": str(networks / "person.onnx"), "scope": "track", "min_s": 0.25},
        )  # fmt: skip
        with Run(folder, config) as run:
            summary = run.finish()
            runs.append(told(run))
        assert summary["frames_out"] == summary["frames_in"] == 60
        assert not summary["frames_dropped"]
        assert len(play(folder / "out.mp4")) == 60
    assert runs[0].keys() == runs[1].keys() >= {"action.started", "zone.enter", "detection"}
    assert runs[0] == runs[1]
    enters = {name: [e for e in runs[0]["zone.enter"] if e["zone"] == name]
              for name in ("all", "any", "some")}  # fmt: skip
    assert len(enters["all"]) >= len(enters["any"]) > 0
    assert enters["any"] != enters["some"]


def test_a_file_tells_of_each_action_once_with_its_times(tmp_path: Path, networks: Path) -> None:
    clip = write_flashes(tmp_path / "clip.mp4", [(2, 5), (8, 10)], seconds=12)
    config = scene(tmp_path, networks, {"source": str(clip)}, detector=None)
    with Run(tmp_path, config) as run:
        run.finish()
        events = told(run)
    begins = [event["start_s"] for event in events["action.started"]]
    ends = [event["end_s"] for event in events["action.ended"]]
    assert begins == pytest.approx([2, 8], abs=0.5)
    assert ends == pytest.approx([5, 10], abs=0.5)
    assert [event["start_s"] for event in events["action.ended"]] == begins
    delays = [event["pts_s"] - begin for event, begin in zip(
        events["action.started"], (2, 8), strict=True)]  # fmt: skip
    assert max(delays) <= 1.0


@pytest.mark.parametrize("stage", BOTH)
def test_offline_a_killed_stage_gets_its_frames_again(
    tmp_path: Path, networks: Path, stage: str
) -> None:
    clip = write_flashes(tmp_path / "clip.mp4", [(2, 15)], seconds=18, fps=16, size=(160, 120))
    out = tmp_path / "out.mp4"
    camera = {**gated(str(clip)), "out": str(out)}
    with Run(tmp_path, scene(tmp_path, networks, camera)) as run:
        run.wait_event("action.started")
        run.stage(stage).kill()
        run.wait_event("stage.restarted", stage=stage)
        summary = run.finish()
        events = told(run)
    assert summary["restarts"] == 1
    assert summary["frames_out"] == summary["frames_in"] == len(play(out)) == 288
    assert not summary["frames_dropped"]
    assert_no_gaps(run.events())
    assert len(events["action.started"]) == len(events["action.ended"])
    last = events["action.ended"][-1]
    assert last["end_s"] == pytest.approx(15, abs=0.5)


def test_live_the_recording_goes_on_whoever_is_killed(tmp_path: Path, networks: Path) -> None:
    record = tmp_path / "rec"
    config = scene(tmp_path, networks, {**gated(), "regime": "live", "record": str(record)})
    with Run(tmp_path, config) as run:
        run.wait_event("detection", count=3)
        for stage in BOTH:
            run.stage(stage).kill()
            run.wait_event("stage.restarted", stage=stage)
            seen = len([e for e in run.events() if e["type"] == "detection"])
            run.wait_event("detection", count=seen + 5)
        summary = run.stop()
    assert summary["restarts"] == 2
    (file,) = segments(record)
    assert summary["frames_out"] == summary["frames_in"] == len(play(file))
    lost = {cause.partition("_")[0] for cause in summary["frames_dropped"]}
    assert not lost & {"encode", "no", "not"}  # no frame of the recording, no slot


@pytest.mark.parametrize("stage", BOTH)
def test_a_stage_that_is_given_up_costs_only_what_it_says(
    tmp_path: Path, networks: Path, stage: str
) -> None:
    clip = write_flashes(tmp_path / "clip.mp4", [(2, 18)], seconds=18, fps=16, size=(160, 120))
    out = tmp_path / "out.mp4"
    config = scene(
        tmp_path, networks, {**gated(str(clip)), "out": str(out)}, supervisor={"restarts": 0}
    )
    with Run(tmp_path, config) as run:
        run.wait_event("action.started")
        run.stage(stage).kill()
        run.wait_event("stage.failed", stage=stage)
        wait_for(lambda: run.process.poll() is not None, "the end of the run", 60)
        assert run.process.returncode == 4
    assert len(play(out)) == 288


@pytest.mark.parametrize("section", ["actions", "segmenter"])
def test_without_its_model_nothing_is_begun(tmp_path: Path, networks: Path, section: str) -> None:
    config = scene(tmp_path, networks, {"source": SCENE}, **{section: {"model": "no/such"}})
    done = streamer("run", config)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("streamer: error")]
    assert len(errors) == 1
    assert f"{section}: no/such: model must be" in errors[0]
    assert "check the name or the path" in errors[0]


def test_another_size_in_mid_stream_goes_through(tmp_path: Path, networks: Path) -> None:
    clip = tmp_path / "both.ts"
    parts = [
        write_flashes(tmp_path / f"{width}.ts", [(1, 9)], seconds=3, size=(width, 96))
        for width in (128, 160)
    ]
    clip.write_bytes(b"".join(part.read_bytes() for part in parts))
    config = scene(tmp_path, networks, {"source": str(clip)}, detector=None)
    with Run(tmp_path, config) as run:
        summary = run.finish()
        events = told(run)
    assert summary["frames_in"] == 150
    assert not summary["frames_dropped"]
    assert len(events["action.started"]) == len(events["action.ended"]) == 2


def test_maps_and_captions_are_drawn(tmp_path: Path, networks: Path) -> None:
    """The red bar is there while the action goes on; the picture has colours that it had not."""

    clip = write_flashes(tmp_path / "clip.mp4", [(2, 5)], seconds=8, size=(320, 240))
    out = tmp_path / "out.mp4"
    config = scene(tmp_path, networks, {"source": str(clip), "out": str(out)}, detector=None)
    with Run(tmp_path, config) as run:
        run.finish()
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    red = [int(((f[..., 0] > 120) & (f[..., 1] < 60)).sum()) for f in frames]
    few = 50  # pixels of a map that are as red as the bar
    assert max(red[:45]) < few > max(red[-40:])
    assert min(red[80:120]) > 300
    colourful = [np.ptp(frame.astype(int), axis=2).mean() for frame in frames]
    assert min(colourful[10:]) > 10


def checked(folder: Path, networks: Path, **sections: object) -> tuple[int, str, str]:
    """What `streamer check` says."""
    done = streamer("check", scene(folder, networks, {"source": SCENE}, **sections))
    return done.returncode, done.stdout, done.stderr


def test_check_says_what_runs_where(tmp_path: Path, networks: Path) -> None:
    code, plan, _ = checked(
        tmp_path, networks,
        detector={"then": [{"model": "street-check"}], "device": "onnxruntime:cpu"},
        encode={"codec": "h264"},
    )  # fmt: skip
    assert code == 0
    assert re.search(r"^detector: .*street\.onnx by onnxruntime on cpu$", plan, re.MULTILINE)
    assert re.search(r"^detector\.then\[0\]: .*street-check\.onnx by onnxrun", plan, re.MULTILINE)
    assert f"actions: {networks / 'scene.onnx'} by openvino on cpu" in plan
    assert f"segmenter: {networks / 'segmenter'} by openvino on cpu" in plan
    assert "processes: decode.gate, track.gate, act, segment, infer, publish" in plan


def test_the_memory_of_the_plan_holds_what_act_and_segment_hold(
    tmp_path: Path, networks: Path
) -> None:
    slots = []
    for sections in ({}, {"actions": None}, {"actions": None, "segmenter": None}):
        _, plan, _ = checked(tmp_path, networks, **sections)
        found = re.search(r"(\d+) slots", plan)
        assert found
        slots.append(int(found[1]))
    held = ANNOTATOR_CREDITS + 1  # and one that waits
    assert slots == [slots[2] + 2 * held, slots[2] + held, slots[2]]


@pytest.mark.parametrize(
    ("section", "settings", "error"),
    [
        ("actions", {"model": "no/such"}, r"actions: no/such: model must be .*; check the name"),
        ("actions", {"scope": "track"}, r"actions\.scope: must be frame for .*, got track"),
        ("actions", {"classes": ["dance"]}, r"actions\.classes: must be of calm, wild, got dance"),
        ("actions", {"device": "moon"}, r"actions\.device: must be auto, cpu, .*, got 'moon'"),
        (
            "segmenter",
            {"model": "no/such"},
            r"segmenter: no/such: model must be .*; check the",
        ),
        (
            "segmenter",
            {"surfaces": {"lane": {"surface": "lava"}}},
            r"segmenter\.surfaces\.lane: 'lava' must be a class of the segmenter, which knows sky",
        ),
    ],
)
def test_check_refuses_what_a_run_would(
    tmp_path: Path, networks: Path, section: str, settings: dict[str, object], error: str
) -> None:
    model = {"actions": networks / "scene.onnx", "segmenter": networks / "segmenter"}[section]
    code, _, said = checked(tmp_path, networks, **{section: {"model": str(model), **settings}})
    assert code == 2
    assert re.search(error, said), said


def test_check_refuses_surfaces_that_the_segmenter_does_not_know(
    tmp_path: Path, networks: Path
) -> None:
    camera = gated()
    camera["zones"]["some"]["on"] = ["road", "lava"]  # type: ignore[index]
    done = streamer("check", scene(tmp_path, networks, camera))
    assert done.returncode == 2
    assert "cameras.gate.zones.some.on: 'lava' must be a class of the segmenter" in done.stderr


def test_offline_a_killed_encoder_is_told_again_what_it_knew(
    tmp_path: Path, networks: Path, data_dir: Path
) -> None:
    """Its frames are handed out again, and all who have spoken of them have long been done."""
    crowd = data_dir / "video" / "walking_crowd_720p.mp4"
    camera = {"source": str(crowd), "regime": "offline", "out": str(tmp_path / "out.mp4")}
    config = scene(
        tmp_path, networks, camera, detector=None, duration_s=5,
        encode={"preset": "medium", "threads": 1},
    )  # fmt: skip
    with Run(tmp_path, config) as run:
        run.wait_event("recording.started")
        wait_for(lambda: (tmp_path / "out.mp4").stat().st_size > 100_000, "frames that are written")
        run.stage("encode.gate").kill()
        run.wait_event("stage.restarted", stage="encode.gate")
        summary = run.finish()
    assert summary["restarts"] == 1
    assert summary["frames_in"] == 125
    assert not summary["frames_dropped"]
