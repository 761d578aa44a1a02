"""What the stages count, added up into what the user is told."""

from __future__ import annotations

import msgspec
import pytest

from streamer.histogram import Histogram
from streamer.messages import Beat
from streamer.summary import Tally

S = 10**9


def beat(
    counters: dict[str, int] | None = None,
    dropped: dict[str, dict[str, int]] | None = None,
    latency: dict[str, dict[int, int]] | None = None,
) -> Beat:
    return Beat(counters or {}, dropped or {}, latency or {})


def latencies(*times_ms: int) -> dict[int, int]:
    histogram = Histogram()
    for time_ms in times_ms:
        histogram.add(time_ms * 10**6)
    return dict(histogram.buckets)


def test_nothing_yet() -> None:
    summary = Tally(["gate"]).summary()
    assert (summary.frames_in, summary.frames_out, summary.fps, summary.restarts) == (0, 0, 0.0, 0)
    assert summary.latency_ms == {"p50": None, "p95": None, "p99": None}
    assert summary.cameras["gate"].frames_dropped == {}


def test_cameras_add_up() -> None:
    tally = Tally(["gate", "door"])
    for camera, frames in (("gate", 100), ("door", 50)):
        tally.beat(f"decode.{camera}", beat({"frames": frames, "first_ns": S}))
        tally.beat(
            f"encode.{camera}",
            beat({"frames": frames - 10, "last_ns": 3 * S}, {camera: {"encode_stale": 1}}),
        )
    tally.beat("infer", beat(dropped={"gate": {"infer_stale": 2}, "door": {"infer_stale": 3}}))
    tally.beat("publish", beat({"events": 7, "events.gate": 4, "events.door": 2}))
    summary = tally.summary()
    assert (summary.frames_in, summary.frames_out, summary.events) == (150, 130, 7)
    assert summary.fps == 65.0
    gate, door = summary.cameras["gate"], summary.cameras["door"]
    assert (gate.frames_in, gate.frames_out, gate.fps, gate.events) == (100, 90, 45.0, 4)
    assert (door.frames_in, door.frames_out, door.fps, door.events) == (50, 40, 20.0, 2)
    assert gate.frames_dropped == {"encode_stale": 1, "infer_stale": 2}
    assert summary.frames_dropped == {"encode_stale": 2, "infer_stale": 5}


def test_the_newest_beat_counts_once() -> None:
    tally = Tally(["gate"])
    for frames in (10, 20, 30):
        tally.beat("decode.gate", beat({"frames": frames}, {"gate": {"no_slot": frames}}))
    summary = tally.summary()
    assert summary.frames_in == 30
    assert summary.frames_dropped == {"no_slot": 30}


def test_those_who_died_count_too() -> None:
    tally = Tally(["gate"])
    tally.beat("decode.gate", beat({"frames": 30, "first_ns": S}, {"gate": {"no_slot": 1}}))
    tally.bury("decode.gate")
    tally.bury("decode.gate")  # it died again before it said anything
    assert tally.summary().frames_in == 30
    tally.beat("decode.gate", beat({"frames": 12, "first_ns": 9 * S}, {"gate": {"no_slot": 5}}))
    tally.beat("encode.gate", beat({"frames": 40, "last_ns": 11 * S}))
    tally.restarts["decode.gate"] += 2
    tally.restarts["infer"] += 1
    summary = tally.summary()
    assert summary.frames_in == 42
    assert summary.frames_dropped == {"no_slot": 6}
    assert summary.fps == 4.0  # 40 frames from second 1 to second 11
    assert (summary.restarts, summary.cameras["gate"].restarts) == (3, 2)
    assert tally.count("decode.gate", "frames") == 42
    assert tally.count("nobody", "frames") == 0


def test_without_files_a_frame_is_out_when_it_was_published() -> None:
    tally = Tally(["gate", "door"])
    tally.beat("decode.gate", beat({"frames": 10, "first_ns": S}))
    tally.beat("decode.door", beat({"frames": 20, "first_ns": S}))
    tally.beat(
        "publish",
        beat({"frames.gate": 8, "last_ns.gate": 2 * S, "frames.door": 20, "last_ns.door": 5 * S}),
    )
    summary = tally.summary()
    assert (summary.cameras["gate"].frames_out, summary.cameras["gate"].fps) == (8, 8.0)
    assert (summary.cameras["door"].frames_out, summary.cameras["door"].fps) == (20, 5.0)
    assert (summary.frames_out, summary.fps) == (28, 7.0)


def test_latency_is_that_of_all_incarnations_and_cameras() -> None:
    tally = Tally(["gate", "door"])
    tally.beat("publish", beat(latency={"gate": latencies(*[10] * 50)}))
    tally.bury("publish")
    tally.beat("publish", beat(latency={"gate": latencies(*[20] * 50), "door": latencies(400)}))
    summary = tally.summary()
    assert summary.cameras["gate"].latency_ms["p50"] == pytest.approx(10, rel=0.02)
    assert summary.cameras["gate"].latency_ms["p95"] == pytest.approx(20, rel=0.02)
    assert summary.cameras["door"].latency_ms["p50"] == pytest.approx(400, rel=0.02)
    assert summary.latency_ms["p99"] == pytest.approx(20, rel=0.02)


def test_a_clock_that_stands_still_gives_no_rate() -> None:
    tally = Tally(["gate"])
    tally.beat("decode.gate", beat({"frames": 1, "first_ns": 5 * S}))
    tally.beat("encode.gate", beat({"frames": 1, "last_ns": 5 * S}))
    assert tally.summary().fps == 0.0


def test_a_summary_is_plain_json() -> None:
    tally = Tally(["gate"])
    tally.beat("decode.gate", beat({"frames": 3}))
    plain = msgspec.json.decode(msgspec.json.encode(tally.summary()))
    assert plain["frames_in"] == 3
    assert plain["cameras"]["gate"]["frames_in"] == 3
    assert plain["latency_ms"] == {"p50": None, "p95": None, "p99": None}
