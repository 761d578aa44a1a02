"""Turn a configuration into the graph of stages: who is started, who feeds whom, how much memory.

Pure: starts nothing, opens nothing. The supervisor and `streamer check` both read what this makes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgspec

from streamer.config import Config
from streamer.memory import slot_bytes
from streamer.queues import EdgePolicy

WORD_CREDITS = 64
"""Messages without pixels that may be in flight on one edge."""
ANNOTATOR_CREDITS = 4
"""Frames of one camera that a stage beside `infer` may hold."""
LIVE_BACKLOG = 256
"""Messages without pixels that wait for a consumer that restarts, live; older ones are dropped."""


class StageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the graph, with its edges."""

    name: str
    """Such as "infer" or "encode.gate"."""
    module: str
    """Dotted name of the module whose `make` builds the stage."""
    camera: str = ""
    """The one camera it serves; empty for all."""
    niceness: int = 0
    """How far it steps back when the processor is short."""
    producers: dict[str, int] = {}
    """Credits that it grants, by producer."""
    consumers: dict[str, EdgePolicy] = {}
    after: tuple[str, ...] = ()
    """Stages whose end it waits for before it ends; empty for those that end with their streams."""


@dataclass(frozen=True)
class Graph:
    """All stages of one run, sources first."""

    config: Config
    stages: tuple[StageSpec, ...]
    live: dict[str, bool]

    def stage(self, name: str) -> StageSpec:
        """The stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)

    def neighbours(self, name: str) -> set[str]:
        """Names of all stages that share an edge with this one."""
        stage = self.stage(name)
        return {*stage.producers, *stage.consumers}

    def slots(self, camera: str) -> int:
        """Slots of this camera's pool: all that its consumers may hold, what may wait in front
        of them, one being written, one to spare."""
        decode = self.stage(f"decode.{camera}")
        held = sum(self.stage(name).producers[decode.name] for name in decode.consumers)
        return held + sum(policy.size for policy in decode.consumers.values()) + 2

    def pool_bytes(self, camera: str, width: int, height: int) -> int:
        """Shared memory of this camera at one picture size."""
        return self.slots(camera) * slot_bytes(width, height)


def build_graph(config: Config, live: dict[str, bool]) -> Graph:
    """Lay out the stages.

    Args:
        config: checked.
        live: by camera, which regime it runs in.
    """
    stages: list[StageSpec] = []
    detects = config.detector is not None
    for camera in config.cameras:
        stages += _camera_stages(config, camera, live=live[camera], detects=detects)
    stages += [_annotator(config, name, live, detects=detects) for name in annotators(config)]
    if config.detector:
        calls = config.detector.streams or processors()
        second_looks = bool(config.detector.then) + bool(config.tracker.reid)
        in_flight = max(calls, config.detector.frames_a_call(len(config.cameras)))
        in_flight += second_looks + 1
        # One that waits beside those in work keeps the engine busy; more would only be older.
        credits_each = max(1, -(-in_flight // len(config.cameras)))
        stages.append(
            StageSpec(
                name="infer",
                module="streamer.stages.infer",
                niceness=5,  # a short processor costs boxes, not frames of the recording
                producers={f"decode.{camera}": credits_each for camera in config.cameras},
                consumers={f"track.{camera}": _words(live[camera]) for camera in config.cameras},
            )
        )
    streams = tuple(stage.name for stage in stages)
    if config.rules:
        stages.append(StageSpec(name="rules", module="streamer.stages.rules", after=streams))
    stages.append(
        StageSpec(
            name="publish",
            module="streamer.stages.publish",
            after=tuple(stage.name for stage in stages),
            producers={f"track.{camera}": WORD_CREDITS for camera in config.cameras if detects}
            | dict.fromkeys(annotators(config), WORD_CREDITS),
        )
    )
    stages += [
        StageSpec(name=f"bridge.{name}", module="streamer.stages.bridge", after=("publish",))
        for name in config.bridges
    ]
    return Graph(config, tuple(stages), live)


def annotators(config: Config) -> tuple[str, ...]:
    """Stages beside `infer` that look at frames of all cameras, one process each."""
    return tuple(
        name
        for name, section in (("act", config.actions), ("segment", config.segmenter))
        if section is not None
    )


def _annotator(config: Config, name: str, live: dict[str, bool], *, detects: bool) -> StageSpec:
    producers = {f"decode.{camera}": ANNOTATOR_CREDITS for camera in config.cameras}
    if name == "act" and detects and config.acts_by_track:
        producers |= {f"track.{camera}": WORD_CREDITS for camera in config.cameras}
    writers = {
        f"encode.{camera}": _words(live[camera])
        for camera in config.cameras
        if config.writes(camera)
    }
    trackers = {
        f"track.{camera}": _words(live[camera])
        for camera, view in config.cameras.items()
        if name == "segment" and view.asks_surfaces
    }
    return StageSpec(
        name=name,
        module=f"streamer.stages.{name}",
        niceness=5,
        producers=producers,
        consumers=writers | trackers | {"publish": _words(any(live.values()))},
    )


def _camera_stages(config: Config, camera: str, *, live: bool, detects: bool) -> list[StageSpec]:
    decode, track, encode = f"decode.{camera}", f"track.{camera}", f"encode.{camera}"
    writes = config.writes(camera)
    frames_to: dict[str, EdgePolicy] = {}
    tracks_to = {"publish": _words(live)}
    # A network is never worth waiting for when live: the newest frame wins.
    newest = EdgePolicy(policy="drop_oldest" if live else "block", size=1, redeliver=not live)
    frames_to |= dict.fromkeys(("infer", *annotators(config))[not detects :], newest)
    if detects and config.acts_by_track:
        tracks_to["act"] = _words(live)
    if writes:
        frames_to[encode] = EdgePolicy(
            policy="drop_oldest" if live else "block", size=2, redeliver=not live
        )
        tracks_to[encode] = _words(live)
    stages = [
        StageSpec(name=decode, module="streamer.stages.decode", camera=camera, consumers=frames_to)
    ]
    if detects:
        maps = {"segment": WORD_CREDITS} if config.cameras[camera].asks_surfaces else {}
        stages.append(
            StageSpec(
                name=track,
                module="streamer.stages.track",
                camera=camera,
                producers={"infer": WORD_CREDITS} | maps,
                consumers=tracks_to,
            )
        )
    if writes:
        producers = {decode: config.encode.join_frames}
        if detects:
            producers[track] = WORD_CREDITS
        producers |= dict.fromkeys(annotators(config), WORD_CREDITS)
        stages.append(
            StageSpec(
                name=encode, module="streamer.stages.encode", camera=camera, producers=producers
            )
        )
    return stages


def _words(live: bool) -> EdgePolicy:
    if live:
        return EdgePolicy(policy="drop_oldest", size=LIVE_BACKLOG)
    return EdgePolicy(policy="block")


def processors() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def decoder_threads(config: Config) -> int:
    """Threads of each file's decoder: two, unless the other stages need the cores."""
    return 2 if processors() > 2 * len(config.cameras) else 1


def encoder_threads(config: Config) -> int:
    """Threads of each encoder: as configured, or the cores shared between cameras that write."""
    if config.encode.threads:
        return config.encode.threads
    writers = sum(config.writes(camera) for camera in config.cameras) * len(config.encode.codecs)
    return max(1, min(8, processors() // max(1, 2 * writers)))
