"""One misbehaving stage at a time in a graph that is otherwise as usual: outcome and time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from streamer.configfile import build_config
from streamer.graph import Graph, build_graph
from streamer.summary import Summary
from streamer.supervisor import Outcome, Supervisor

STAGES = Path(__file__).parent / "stages"
SCENE = "synthetic:street?seed=5&size=160x120&fps=20"


@pytest.fixture(autouse=True)
def stages_can_be_found(monkeypatch):
    path = [str(STAGES), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


def graph(
    tmp_path: Path, bad: str, module: str, *, source: object = SCENE, **supervisor: object
) -> Graph:
    """A camera without a detector, in which one stage misbehaves."""
    config = build_config(
        {
            "cameras": {
                "gate": {"source": source, "regime": "live", "open_s": 0.2, "first_frame_s": 0.2}
            },
            "detector": None,
            "record": {"folder": str(tmp_path / "rec")},
            "events": {"file": str(tmp_path / "events.jsonl")},
            # Few tests here are about beats; a busy machine must not look like a hung stage.
            "supervisor": {"stop_s": 2.0, "beat_s": 10.0, **supervisor},
        }
    )
    usual = build_graph(config, {"gate": True})
    stages = tuple(
        msgspec.structs.replace(stage, module=module) if stage.name == bad else stage
        for stage in usual.stages
    )
    return Graph(config, stages, usual.live)


def run(graph: Graph, *, until: Callable[[Summary], bool]) -> tuple[Outcome, float]:
    """Run, ask for a stop once this is so; the outcome and how long the stop took."""
    stops_s: list[float] = []

    def look(summary: Summary) -> None:
        if until(summary) and not stops_s:
            stops_s.append(time.monotonic())
            supervisor.request_stop()

    supervisor = Supervisor(graph, on_status=look)
    outcome = supervisor.run()
    ended_s = time.monotonic()
    return outcome, ended_s - (stops_s[0] if stops_s else ended_s)


def test_a_stage_that_always_crashes_is_given_up_and_the_others_go_on(tmp_path, caplog):
    crashing = graph(tmp_path, "publish", "always_crashes", restarts=2)
    outcome, _ = run(
        crashing, until=lambda so_far: "given up" in caplog.text and so_far.frames_out > 20
    )
    (error,) = outcome.errors
    assert str(error).startswith("publish: died 3 times within 60 s, last exit code 1; given up")
    assert error.stage == "publish"
    assert outcome.summary.restarts == 2
    assert outcome.summary.frames_out > 20


def test_a_stage_that_hangs_is_replaced(tmp_path, caplog):
    hanging = graph(tmp_path, "publish", "hangs_after_ready", restarts=1, beat_s=1.5)
    outcome, _ = run(
        hanging, until=lambda so_far: "given up" in caplog.text and so_far.frames_out > 20
    )
    (error,) = outcome.errors
    assert "publish: died 2 times within 60 s, last killed by SIGKILL" in str(error)
    assert outcome.summary.frames_out > 20


def test_a_stage_that_is_never_ready_is_replaced(tmp_path, caplog):
    late = graph(tmp_path, "publish", "never_ready", restarts=0, ready_s=4.0)
    outcome, _ = run(late, until=lambda _: "given up" in caplog.text)
    (error,) = outcome.errors
    assert "publish: died 1 times within 60 s, last killed by SIGKILL" in str(error)


def test_a_stage_that_ignores_stop_and_sigterm_is_killed_in_time(tmp_path, caplog):
    caplog.set_level("INFO")
    outcome, took_s = run(
        graph(tmp_path, "publish", "ignores_stop"),
        until=lambda so_far: "publish: deaf from now on" in caplog.text and so_far.frames_out > 5,
    )
    assert 1.0 < took_s < 3.0
    assert outcome.summary.frames_out > 5


def test_a_stop_that_is_suspended_goes_on_where_it_was(tmp_path, caplog):
    caplog.set_level("INFO")

    def suspended_in_the_stop(so_far: Summary) -> bool:
        if "stopping" in caplog.text and "held up" not in caplog.text:
            time.sleep(1.6)
        return "publish: deaf from now on" in caplog.text and so_far.frames_out > 5

    deaf = graph(tmp_path, "publish", "ignores_stop")
    _, took_s = run(deaf, until=suspended_in_the_stop)
    assert "held up" in caplog.text
    assert took_s > 0.85 * 2.0 + 1.6 - 0.2


def test_a_source_that_heeds_no_deadline_is_replaced(tmp_path):
    uri = "rtsp://127.0.0.1:9/stream"
    deaf = graph(tmp_path, "decode.gate", "deaf_source", source=uri, restarts=0)
    outcome, _ = run(deaf, until=lambda _: False)
    (error,) = outcome.errors
    assert str(error).startswith("decode.gate: died 1 times within 60 s, last exit code 1")


def test_a_slow_recorder_costs_frames_that_are_counted_and_holds_nobody_up(tmp_path):
    outcome, took_s = run(
        graph(tmp_path, "encode.gate", "slow_sink"),
        until=lambda so_far: (
            so_far.frames_in > 60 and so_far.frames_dropped.get("encode_busy", 0) > 20
        ),
    )
    summary = outcome.summary
    assert summary.frames_in > 60
    assert summary.restarts == 0
    assert summary.frames_dropped["encode_busy"] > 20
    lost = sum(summary.frames_dropped.values())
    assert summary.frames_in == summary.frames_out + lost
    assert took_s < 3.0


def test_a_stop_before_anything_is_ready_ends_at_once(tmp_path):
    supervisor = Supervisor(graph(tmp_path, "publish", "never_ready"))
    threading.Timer(0.05, supervisor.request_stop).start()
    begun = time.monotonic()
    supervisor.run()
    assert time.monotonic() - begun < 2.0


def test_who_dies_when_all_is_done_does_not_hold_up_the_end(tmp_path):
    config = build_config(
        {
            "cameras": {"gate": f"{SCENE}&seconds=1"},
            "events": {"file": str(tmp_path / "events.jsonl")},
        }
    )
    usual = build_graph(config, {"gate": False})
    stages = tuple(
        msgspec.structs.replace(stage, module="dies_at_the_end") if stage.name == "infer" else stage
        for stage in usual.stages
    )
    outcome, _ = run(Graph(config, stages, usual.live), until=lambda _: False)
    assert not outcome.errors
    assert outcome.summary.frames_in == 20
