"""The track stage: what infer sends reaches the tracker, and what the analytics see goes on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pipeline import ROOT, Run, assert_no_gaps
from samples import info_of

from streamer.config import CameraConfig, Config, TrackerConfig
from streamer.graph import build_graph
from streamer.ledger import make_ledger
from streamer.messages import Detections, Tracks
from streamer.outlines import of_tracks
from streamer.stage import StageStart
from streamer.stages.track import Track
from streamer.view import CalibrationConfig, LineConfig, ZoneConfig

NAMES = ("person", "car", "truck")
ZONE = ZoneConfig(polygon=((0.4, 0), (0.6, 0), (0.6, 1), (0.4, 1)))
LINE = LineConfig(ends=((0.5, 1), (0.5, 0)))
SIZE = (1000, 500)


@pytest.fixture
def ledger_fd() -> Iterator[int]:
    """The counters of the stage, as its supervisor owns them."""
    fd = make_ledger("track.gate")
    yield fd
    os.close(fd)


Make = Callable[..., Track]


@pytest.fixture
def make(ledger_fd: int) -> Iterator[Make]:
    """Track stages that nobody supervises; those of one test share their counters."""
    made: list[Track] = []

    def make(*, camera: CameraConfig | None = None, tracker: TrackerConfig | None = None) -> Track:
        camera = camera or CameraConfig(source="x", zones={"yard": ZONE}, lines={"kerb": LINE})
        config = Config(cameras={"gate": camera}, tracker=tracker or TrackerConfig())
        graph = build_graph(config, {"gate": False})
        made.append(
            Track(
                StageStart(
                    spec=graph.stage("track.gate"), config=config, live=graph.live,
                    run=f"test{os.getpid()}", incarnation=len(made),
                    supervisor_pid=os.getpid(), control="ipc://@nobody", ledger_fd=ledger_fd,
                )
            )
        )  # fmt: skip
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture
def stage(make: Make) -> Track:
    return make()


def found(seq: int, *feet_x: float, width: int = SIZE[0], **fields: object) -> Detections:
    """One person at each place."""
    boxes = np.array([(x - 15, 200, x + 15, 300) for x in feet_x], np.float32).reshape(-1, 4)
    scores = np.full(len(boxes), 0.9, np.float32)
    classes = np.zeros(len(boxes), np.int16)
    return Detections(
        info_of(seq, width=width, height=SIZE[1]), boxes.tobytes(), scores.tobytes(),
        classes.tobytes(), NAMES, **fields,
    )  # fmt: skip


def walk(stage: Track, frames: int, *, first: int = 0, begin_px: float = 300.0) -> list[Tracks]:
    """A person walks 5 px a frame to the right."""
    return [stage._track(found(first + n, begin_px + 5.0 * n)) for n in range(frames)]


def told(messages: list[Tracks]) -> list[str]:
    return [happening.kind for message in messages for happening in message.happenings]


def test_what_happens_goes_with_the_tracks_of_its_frame(stage: Track) -> None:
    messages = walk(stage, 80)
    assert told(messages) == ["zone.enter", "line.crossed", "zone.leave"]
    readings = [message.readings for message in messages]
    assert {reading.occupancy for reading in readings} == {(0,), (1,)}
    assert readings[-1].counts == ((1, 0),)
    assert readings[-1].speeds_kmh == b""
    crossed = next(m for m in messages if any(h.kind == "line.crossed" for h in m.happenings))
    ids = np.frombuffer(crossed.ids, np.int64).tolist()
    assert [h.fields["track_id"] for h in crossed.happenings] == ids


def test_a_lost_track_leaves_in_the_frame_in_which_it_ends(stage: Track) -> None:
    messages = walk(stage, 40)
    messages += [stage._track(found(seq)) for seq in range(40, 140)]
    last = next(message for message in messages if message.ended)
    (leave,) = last.happenings
    assert (leave.kind, leave.fields["reason"]) == ("zone.leave", "lost")
    assert last.ended == (leave.fields["track_id"],)
    assert last.info.seq == 39 + 63  # default: 2.5 s at 25 fps


def test_the_timeout_of_a_track_is_an_option(make: Make) -> None:
    stage = make(tracker=TrackerConfig(lost_s=0.2))
    messages = walk(stage, 40)
    messages += [stage._track(found(seq)) for seq in range(40, 60)]
    last = next(message for message in messages if message.ended)
    assert last.info.seq == 39 + 6


def test_the_end_of_the_stream_says_what_follows_from_it(stage: Track) -> None:
    walk(stage, 30)
    end = stage._end()
    assert [(h.kind, h.fields["reason"]) for h in end.happenings] == [("zone.leave", "ended")]


def test_a_successor_goes_on_with_ids_and_counts(stage: Track, make: Make) -> None:
    messages = walk(stage, 44)
    assert told(messages) == ["zone.enter", "line.crossed"]
    successor = make()
    messages = walk(successor, 40, first=44, begin_px=520)
    leave, enter = messages[0].happenings[0], None
    assert (leave.kind, leave.fields["reason"]) == ("zone.leave", "restarted")
    enter = next(h for m in messages for h in m.happenings if h.kind == "zone.enter")
    assert enter.fields["total"] == 1
    assert enter.fields["track_id"] > leave.fields["track_id"]
    assert messages[-1].readings.counts == ((1, 0),)


def test_a_camera_that_declares_nothing_pays_nothing(make: Make) -> None:
    stage = make(camera=CameraConfig(source="x"))
    messages = walk(stage, 20)
    assert {message.readings for message in messages} == {None}
    assert told(messages) == []
    assert stage._end().happenings == ()


def test_speeds_come_in_the_order_of_the_tracks(make: Make) -> None:
    ground = CalibrationConfig(
        picture=((0, 1), (1, 1), (1, 0), (0, 0)), ground_m=((0, 0), (100, 0), (100, 50), (0, 50))
    )
    stage = make(camera=CameraConfig(source="x", calibration=ground))
    for n in range(40):
        message = stage._track(found(n, 300 + 5.0 * n, 900 - 2.0 * n))  # 0.1 m/px, 25 fps
    speeds = np.frombuffer(message.readings.speeds_kmh, np.float32)
    boxes = np.frombuffer(message.boxes, np.float32).reshape(-1, 4)
    expected = np.where(boxes[:, 0] < 600, 12.5 * 3.6, 5 * 3.6)
    np.testing.assert_allclose(speeds, expected, rtol=0.02)


def test_another_size_ends_tracks_and_visits_together(stage: Track) -> None:
    messages = walk(stage, 30)
    message = stage._track(found(30, 450.0, width=1280))
    assert message.ended
    assert [h.fields["reason"] for h in message.happenings] == ["lost"]
    assert told(messages) == ["zone.enter"]


# What comes from infer.


def test_motion_moves_the_tracks(make: Make) -> None:
    """The camera swings by more than a person is wide each frame; told of it, one track is one."""
    shift = np.array([[1, 0, 60], [0, 1, 0]], np.float32).tobytes()
    ids = {}
    for name, motion in (("told", shift), ("not told", b"")):
        stage = make(camera=CameraConfig(source="x"))
        messages = [stage._track(found(n, 100 + 60.0 * n, motion=motion)) for n in range(12)]
        ids[name] = {i for m in messages for i in np.frombuffer(m.ids, np.int64).tolist()}
    assert len(ids["told"]) == 1
    assert len(ids["not told"]) == 0  # none is ever confirmed


def embedded(seq: int, feet_x: list[float], looks: list[int], size: int = 8) -> Detections:
    vectors = np.eye(size, dtype=np.float16)[looks]
    return found(seq, *feet_x, embeddings=vectors.tobytes())


def test_embeddings_tell_apart_who_overlaps(make: Make) -> None:
    """Two persons change places while nobody sees them; their looks say who is who."""
    ids: dict[bool, list[int]] = {}
    for looks in (True, False):
        stage = make(
            camera=CameraConfig(source="x"),
            tracker=TrackerConfig(name="botsort", appearance=looks),
        )  # fmt: skip
        for seq in range(10):
            first = stage._track(embedded(seq, [300.0, 312.0], [0, 1]))
        for seq in range(13, 16):
            last = stage._track(embedded(seq, [312.0, 300.0], [0, 1]))
        before, after = (np.frombuffer(m.ids, np.int64).tolist() for m in (first, last))
        boxes = [np.frombuffer(m.boxes, np.float32).reshape(-1, 4)[:, 0] for m in (first, last)]
        left = [ids_[int(x.argmin())] for ids_, x in zip((before, after), boxes, strict=True)]
        ids[looks] = left
    assert ids[True][0] != ids[True][1]
    assert ids[False][0] == ids[False][1]


def test_embeddings_that_come_later_or_change_their_length_end_the_tracks(stage: Track) -> None:
    for seq in range(5):
        plain = stage._track(found(seq, 100.0))
    (number,) = np.frombuffer(plain.ids, np.int64).tolist()
    assert stage._track(embedded(5, [100.0], [0])).ended == (number,)
    for seq in range(6, 9):
        seen = stage._track(embedded(seq, [100.0], [0]))
    (number,) = np.frombuffer(seen.ids, np.int64).tolist()
    assert stage._track(found(9)).ended == ()  # nobody there, so nobody was embedded
    assert stage._track(embedded(10, [100.0], [0], size=16)).ended == (number,)


def test_labels_stay_with_their_tracks(stage: Track) -> None:
    for seq in range(5):
        message = stage._track(found(seq, 100.0, 300.0, labels=("red", "")))
    assert sorted(message.labels) == ["", "red"]
    message = stage._track(found(5, 100.0, 300.0, labels=("", "blue")))
    by_place = dict(
        zip(np.frombuffer(message.boxes, np.float32)[::4].tolist(), message.labels, strict=True)
    )
    assert [by_place[x] for x in sorted(by_place)] == ["red", "blue"]
    assert stage._track(found(6, 100.0, 300.0)).labels  # remembered
    assert stage._track(found(7)).labels is not None


def test_outlines_stay_with_their_tracks(stage: Track) -> None:
    square = (np.ones((4, 2), np.float32).tobytes(),)
    triangle = (np.ones((3, 2), np.float32).tobytes(),)
    for seq in range(5):
        order = [300.0, 700.0] if seq % 2 else [700.0, 300.0]
        shapes = {300.0: square, 700.0: triangle}
        outlines = tuple(shapes[x] for x in order)
        message = stage._track(found(seq, *order, outlines=outlines))
    boxes = np.frombuffer(message.boxes, np.float32).reshape(-1, 4)
    assert len(boxes) == 2
    for box, (outline,) in zip(boxes, of_tracks(message), strict=True):
        assert len(outline) == (4 if box[0] < 500 else 3)
    alone = stage._track(found(5, 700.0, outlines=(triangle,)))
    assert sorted(map(len, of_tracks(alone))) in ([1], [0, 1])  # who is not seen has none
    assert stage._track(found(6, 300.0, 700.0)).rows == b""


def test_messages_survive_the_wire(stage: Track) -> None:
    for message in walk(stage, 80):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Tracks) == message


def example(folder: Path, seconds: int) -> Path:
    """The shipped configuration, small and short."""
    config = folder / "zones.yaml"
    config.write_text(
        (ROOT / "configs" / "street_zones.yaml")
        .read_text()
        .replace("size=1280x720&fps=25", "size=640x360&fps=12.5")
        .replace("    out: street_zones.mp4\n", "")
        .replace("street_zones.jsonl", str(folder / "unused.jsonl"))
        .replace("duration_s: 60", f"duration_s: {seconds}")
    )
    return config


def assert_visits_are_whole(events: list[dict[str, Any]], *, untold: int = 0) -> None:
    """Each visit that begins ends, once, before its track does, and after its track has begun.

    `untold`: frames whose message may have died with the process that had just made it.
    """
    seqs: dict[str, dict[tuple[str, int], int]] = {"zone.enter": {}, "zone.leave": {}}
    for event in events:
        if event["type"] in seqs and (event["type"] == "zone.leave" or not event["appeared"]):
            seqs[event["type"]][event["zone"], event["track_id"]] = event["seq"]
    kinds = Counter(event["type"] for event in events)
    assert abs(kinds["zone.enter"] - kinds["zone.leave"]) <= 3 * untold
    assert kinds["zone.enter"] > 3
    both = seqs["zone.enter"].keys() & seqs["zone.leave"].keys()
    assert len(both) >= len(seqs["zone.enter"]) - 3 * untold
    for key in both:
        assert seqs["zone.enter"][key] < seqs["zone.leave"][key]
    tracks = {
        kind: {e["track_id"]: e["seq"] for e in events if e["type"] == kind}
        for kind in ("track.started", "track.ended")
    }
    for event in events:
        if event["type"].startswith("zone.") and "track_id" in event:
            assert tracks["track.started"][event["track_id"]] < event["seq"]
            assert event["seq"] < tracks["track.ended"].get(event["track_id"], event["seq"] + 1)


def test_the_example_runs(tmp_path: Path) -> None:
    with Run(tmp_path, example(tmp_path, 8)) as run:
        run.finish()
        events = run.events()
    assert_no_gaps(events)
    assert_visits_are_whole(events)


def test_a_killed_track_stage_loses_no_count(tmp_path: Path) -> None:
    with Run(tmp_path, example(tmp_path, 25)) as run:
        run.wait_event("line.crossed", count=3)
        run.stage("track.street").kill()
        run.finish()
        events = run.events()
    assert_no_gaps(events)
    assert_visits_are_whole(events, untold=1)
    assert any(e["type"] == "stage.restarted" and e["stage"] == "track.street" for e in events)
    assert any(e["type"] == "zone.leave" and e["reason"] == "restarted" for e in events)
    for line in ("pedestrians", "vehicles"):
        counts = [(e["count_in"], e["count_out"]) for e in events if e.get("line") == line
                  and e["type"] == "line.crossed"]  # fmt: skip
        assert counts == sorted(counts)
        assert sum(counts[-1]) >= len(counts)  # one may have been counted but not told
