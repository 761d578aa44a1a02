"""The graph of stages: who is started, who feeds whom, under which policy, with how much memory."""

from __future__ import annotations

import pytest

from streamer import graph as graph_module
from streamer.config import Config
from streamer.configfile import build_config
from streamer.graph import (
    LIVE_BACKLOG,
    WORD_CREDITS,
    Graph,
    build_graph,
    decoder_threads,
    encoder_threads,
)
from streamer.memory import slot_bytes
from streamer.queues import EdgePolicy

BLOCK = EdgePolicy(policy="block")
BACKLOG = EdgePolicy(policy="drop_oldest", size=LIVE_BACKLOG)


def config_of(cameras: dict[str, object], **sections: object) -> Config:
    return build_config({"cameras": cameras, **sections})


def graph_of(config: Config, *, live: bool) -> Graph:
    return build_graph(config, dict.fromkeys(config.cameras, live))


def edges(graph: Graph) -> dict[tuple[str, str], EdgePolicy]:
    """Policies by producer and consumer."""
    return {
        (stage.name, consumer): policy
        for stage in graph.stages
        for consumer, policy in stage.consumers.items()
    }


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is the same everywhere."""
    monkeypatch.setattr(graph_module, "processors", lambda: 4)


def test_a_file_blocks_everywhere_and_is_handed_out_again() -> None:
    graph = graph_of(config_of({"a": {"source": "x", "out": "y.mp4"}}), live=False)
    assert edges(graph) == {
        ("decode.a", "infer"): BLOCK,
        ("decode.a", "encode.a"): EdgePolicy(policy="block", size=2),
        ("infer", "track.a"): BLOCK,
        ("track.a", "encode.a"): BLOCK,
        ("track.a", "publish"): BLOCK,
    }
    assert all(policy.redeliver for policy in edges(graph).values())


def test_live_the_newest_frame_wins_and_words_wait_longer() -> None:
    graph = graph_of(config_of({"a": {"source": "x", "record": "r"}}), live=True)
    newest = EdgePolicy(policy="drop_oldest", size=1, redeliver=False)
    assert edges(graph) == {
        ("decode.a", "infer"): newest,
        ("decode.a", "encode.a"): EdgePolicy(policy="drop_oldest", size=2, redeliver=False),
        ("infer", "track.a"): BACKLOG,
        ("track.a", "encode.a"): BACKLOG,
        ("track.a", "publish"): BACKLOG,
    }


def test_each_camera_has_its_own_regime() -> None:
    config = config_of({"a": "x", "b": "y"})
    graph = build_graph(config, {"a": True, "b": False})
    assert edges(graph)["decode.a", "infer"].policy == "drop_oldest"
    assert edges(graph)["decode.b", "infer"].policy == "block"
    assert edges(graph)["infer", "track.a"] == BACKLOG
    assert edges(graph)["infer", "track.b"] == BLOCK


@pytest.mark.parametrize(
    ("detector", "out", "names"),
    [
        ({}, "o.mp4", ["decode.a", "track.a", "encode.a", "infer", "publish"]),
        ({}, "", ["decode.a", "track.a", "infer", "publish"]),
        (None, "o.mp4", ["decode.a", "encode.a", "publish"]),
        (None, "", ["decode.a", "publish"]),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_only_stages_with_work_are_started(
    detector: object, out: str, names: list[str], live: bool
) -> None:
    config = config_of({"a": {"source": "x", "out": out}}, detector=detector)
    graph = graph_of(config, live=live)
    assert [stage.name for stage in graph.stages] == names
    assert [stage.module for stage in graph.stages] == [
        f"streamer.stages.{name.partition('.')[0]}" for name in names
    ]
    assert [stage.camera for stage in graph.stages] == [
        "a" if "." in name else "" for name in names
    ]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("detector", [{}, None])
def test_both_ends_of_an_edge_know_each_other(live: bool, detector: object) -> None:
    cameras: dict[str, object] = {"a": "x", "b": {"source": "y", "record": "r"}}
    graph = graph_of(config_of(cameras, detector=detector), live=live)
    granted = {(producer, stage.name) for stage in graph.stages for producer in stage.producers}
    assert set(edges(graph)) == granted
    for stage in graph.stages:
        assert min(stage.producers.values(), default=1) >= 1
        for other in graph.neighbours(stage.name):
            assert stage.name in graph.neighbours(other)


def test_one_inference_serves_all_cameras() -> None:
    graph = graph_of(config_of({"a": "x", "b": "y", "c": "z"}), live=True)
    infer = graph.stage("infer")
    assert infer.camera == ""
    assert set(infer.producers) == {"decode.a", "decode.b", "decode.c"}
    assert set(infer.consumers) == {"track.a", "track.b", "track.c"}
    assert infer.niceness > 0
    assert all(s.niceness == 0 for s in graph.stages if s.name != "infer")


@pytest.mark.parametrize(
    ("cameras", "detector", "in_flight"),
    [
        (1, {}, 4 + 1),  # one a core in work, one that waits
        (1, {"streams": 2}, 2 + 1),
        (1, {"streams": 2, "batch": 8}, 8 + 1),
        (2, {}, 3),  # shared, rounded up
        (5, {}, 1),
        (9, {}, 1),  # each camera can always have one there
    ],
)
def test_slots_are_what_may_be_held_and_what_may_wait_and_two(
    cameras: int, detector: dict[str, object], in_flight: int
) -> None:
    names = {f"c{number}": {"source": f"x{number}", "record": "r"} for number in range(cameras)}
    config = config_of(dict(names), detector=detector, encode={"join_frames": 10})
    graph = graph_of(config, live=True)
    assert graph.stage("infer").producers["decode.c0"] == in_flight
    assert graph.stage("encode.c0").producers == {"decode.c0": 10, "track.c0": WORD_CREDITS}
    waiting_for_infer, waiting_for_encode = 1, 2
    assert graph.slots("c0") == in_flight + 10 + waiting_for_infer + waiting_for_encode + 2


def test_without_consumers_a_pool_is_small() -> None:
    graph = graph_of(config_of({"a": "x"}, detector=None), live=False)
    assert graph.slots("a") == 2


def test_bytes_of_a_pool() -> None:
    config = config_of({"a": {"source": "x", "out": "o.mp4"}}, encode={"join_frames": 16})
    graph = graph_of(config, live=False)
    assert graph.slots("a") == 5 + 16 + 1 + 2 + 2
    assert graph.pool_bytes("a", 1920, 1080) == 26 * slot_bytes(1920, 1080)
    assert graph.pool_bytes("a", 1920, 1080) == pytest.approx(26 * 1920 * 1080 * 1.5, rel=0.01)


def test_an_unknown_stage_is_our_own_mistake() -> None:
    with pytest.raises(StopIteration, match=r"^$"):
        graph_of(config_of({"a": "x"}), live=False).stage("nobody")


@pytest.mark.parametrize(
    ("writers", "threads", "expected"),
    [(1, 0, 2), (2, 0, 1), (5, 0, 1), (3, 7, 7)],
)
def test_cores_are_shared_between_encoders(writers: int, threads: int, expected: int) -> None:
    cameras: dict[str, object] = {"quiet": "q"}
    cameras |= {f"c{n}": {"source": f"x{n}", "record": "r"} for n in range(writers)}
    assert encoder_threads(config_of(cameras, encode={"threads": threads})) == expected


def test_decoders_get_a_second_thread_where_cores_are_left() -> None:
    assert decoder_threads(config_of({"a": "x"})) == 2
    assert decoder_threads(config_of({"a": "x", "b": "y"})) == 1
