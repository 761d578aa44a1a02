"""Say what one run can be told: every section, its fields, and which of them contradict each other.

Every field says its meaning, unit and range here. configfile.py reads these from YAML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamer.bridges.section import BridgeConfig, WebhookConfig, check_bridges
from streamer.encoding import EncodeConfig as EncodeConfig
from streamer.errors import ConfigError
from streamer.outlets import EventsConfig as EventsConfig
from streamer.outlets import check_address as check_address
from streamer.rules.section import MADE, TYPES, RuleConfig, Surroundings, check_rules
from streamer.strict import Name, Relative, Seconds, Strict
from streamer.view import CalibrationConfig, LineConfig, ZoneConfig, check_view

Regime = Literal["auto", "live", "offline"]


class HideConfig(Strict, frozen=True):
    """What is made unrecognisable before a picture is written."""

    classes: tuple[str, ...] = ()
    """Classes of the detector, and "head": the upper fifth of a person."""
    polygons: tuple[tuple[tuple[Relative, Relative], ...], ...] = ()
    """Corners of places that are always hidden, in parts of width and height."""
    how: Literal["blur", "fill"] = "blur"
    outputs: tuple[Literal["out", "record"], ...] = ("out", "record")
    """Into which of the camera's files it does not go."""


class CameraConfig(Strict, frozen=True):
    """One source of frames and what is made of it."""

    source: str
    """File, rtsp(s)://, http(s)://, camera index, folder or glob of images, synthetic:street?..."""
    regime: Regime = "auto"
    """live: newest frame wins. offline: every frame is processed. auto: as the source is."""
    out: str = ""
    """One annotated video file of the whole run; empty for none."""
    record: str = ""
    """Folder for segments; empty for record.folder."""
    open_s: Annotated[float, Meta(gt=0, le=300)] = 5.0
    """Deadline of connecting to a network source."""
    first_frame_s: Annotated[float, Meta(gt=0, le=300)] = 5.0
    """Longest wait for its first picture; more for cameras with rare key frames."""
    frame_s: Annotated[float, Meta(gt=0, le=300)] = 3.0
    """Longest wait for each further picture; then it counts as stalled and is opened again."""
    hwaccel: str = "none"
    """Decoder: none (software), auto, or a device such as cuda or vaapi."""
    overlay: bool = True
    """Draw boxes, labels, trails and the caption into what is written."""
    hide: tuple[HideConfig, ...] = ()
    """Privacy. Where nobody knows what is in a picture, all of it is hidden."""
    zones: dict[Name, ZoneConfig] = msgspec.field(default_factory=dict)
    """Parts of the picture that there are events about, by name."""
    lines: dict[Name, LineConfig] = msgspec.field(default_factory=dict)
    """Lines whose crossings are counted, by name."""
    calibration: CalibrationConfig | None = None
    """Makes speeds in km/h."""

    @property
    def asks_surfaces(self) -> bool:
        """True if some zone or line counts on some surfaces only."""
        return any(border.on for border in (*self.zones.values(), *self.lines.values()))

    def hide_in(self, output: Literal["out", "record"]) -> tuple[HideConfig, ...]:
        """The rules of one output."""
        return tuple(rule for rule in self.hide if output in rule.outputs)


class ClassifierConfig(Strict, frozen=True):
    """A network that looks at each box of the detector, to reject it or to say more of it."""

    model: str
    """Name of a shipped classifier, or path of an ONNX file that says how it is read."""
    classes: tuple[str, ...] = ()
    """Classes of the detector that it looks at; empty for all."""
    least: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """A verifier rejects boxes whose score, both opinions together, is lower; None for
    detector.score_low. Others tell no label that is less sure; None for 0.5."""
    sure: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Boxes that the detector scores as high as this need no second look."""
    crops: Annotated[int, Meta(ge=1, le=1000)] = 64
    """Boxes of one frame that are looked at, the best ones; the others pass as they are."""


class DetectorConfig(Strict, frozen=True):
    """Which network looks at the frames, and where it runs."""

    model: str = "street"
    """Name of a shipped model, or path of an ONNX file of a known kind."""
    score: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    """Boxes of at least this score are events and can begin a track."""
    score_low: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Boxes of at least this score can continue a track."""
    nms_iou: Annotated[float, Meta(gt=0, le=1)] = 0.45
    """Of two boxes of a class that overlap more than this, the better stays."""
    classes: tuple[str, ...] = ()
    """Keep only these classes; empty for all."""
    device: str = "auto"
    """auto, cpu, or a device such as cuda:0."""
    precision: Literal["auto", "f32", "bf16", "f16"] = "f32"
    """Of the arithmetic: f32 finds the same on every machine, auto is what the device is fastest
    with (bf16 on new processors: 1.25 times as fast, 3 boxes in 100 differ)."""
    batch: Annotated[int, Meta(ge=0, le=64)] = 0
    """Frames of different cameras in one call at the most; 0 for what pays: 1 on a CPU, elsewhere
    one of each camera, up to 16."""
    collect_ms: Annotated[float, Meta(ge=0, le=1000)] = 4.0
    """How long a frame may wait for those of other cameras that are due to join its batch."""
    streams: Annotated[int, Meta(ge=0, le=64)] = 0
    """Calls in flight at once; 0 for one a processor core."""
    age_s: Annotated[float, Meta(gt=0)] = 1.0
    """Live: a frame older than this is not worth looking at."""
    then: tuple[ClassifierConfig, ...] = ()
    """Second-stage networks that look at the boxes, one after the other."""

    @property
    def on_cpu(self) -> bool:
        """True if the networks run on the processor."""
        return self.device.lower().rpartition(":")[2] in ("auto", "cpu")

    def frames_a_call(self, cameras: int) -> int:
        """Frames in one call at the most, where there are so many cameras."""
        return self.batch or (1 if self.on_cpu else min(cameras, 16))


class TrackerConfig(Strict, frozen=True):
    """How detections become identities; what is left out is as the named tracker has it."""

    name: Literal["default", "sort", "bytetrack", "ocsort", "botsort"] = "default"
    """default scores best on every set that we know."""
    high_score: Relative | None = None
    """Detections from here on may continue any track; between low and high, only one in sight."""
    low_score: Relative | None = None
    """Detections below are ignored."""
    birth_score: Relative | None = None
    """Detections from here on begin a track."""
    match_iou: Relative | None = None
    """Least overlap of a track's prediction with a detection."""
    confirm_hits: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """Detections after which a track is confirmed, and counts."""
    lost_s: Annotated[float, Meta(ge=0.001, le=3600)] | None = None
    """A track that was unseen for longer ends, and leaves its zones."""
    camera_motion: bool | None = None
    """Move tracks with the camera, where its motion is estimated."""
    appearance: bool = True
    """Compare looks, where the detections carry embeddings."""
    appearance_distance: Annotated[float, Meta(ge=0, le=2)] | None = None
    """Cosine distance up to which two looks are the same."""
    motion: Literal["auto", "on", "off"] = "auto"
    """Estimation of the camera's motion. auto: where the tracker uses it and the scenery changes;
    on: for each frame (1.3 ms at 720p)."""
    reid: str = ""
    """Path of an ONNX network whose embeddings of boxes are compared; empty for none."""
    reid_classes: tuple[str, ...] = ("person",)
    """Classes of the detector whose boxes are embedded; empty for all."""
    reid_crops: Annotated[int, Meta(ge=1, le=1000)] = 16
    """Boxes of one frame that are embedded, the best of those from detector.score on; OSNet x0.25
    takes 4.6 ms for each on a processor core."""


class ActionsConfig(Strict, frozen=True):
    """Which actions are recognised, and when one is an event."""

    model: str = "fight"
    """Name of a shipped action recogniser, or path of an ONNX file of its kind."""
    scope: Literal["frame", "track"] = "frame"
    """frame: the whole picture acts. track: each person does, on its own clip."""
    classes: tuple[str, ...] = ()
    """Only these actions are events; empty for all that the model calls remarkable."""
    on: Annotated[float, Meta(gt=0, lt=1)] = 0.6
    """An action begins when its score has been at least this."""
    off: Annotated[float, Meta(gt=0, lt=1)] = 0.4
    """It ends when its score has fallen below this."""
    min_s: Annotated[float, Meta(ge=0, le=60)] = 0.25
    """Neither begins nor ends before its score has stayed so long."""
    crops_per_s: Annotated[float, Meta(gt=0, le=10_000)] = 64.0
    """track: people looked at a second at the most, all cameras together; they take turns."""
    device: str = "auto"
    """auto, cpu, or a device such as cuda:0."""


class SurfaceConfig(Strict, frozen=True):
    """When a surface of the scene counts as blocked."""

    surface: str
    """Class of the segmenter, such as road."""
    by: tuple[str, ...] = ()
    """Only these classes block it; empty for all others."""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.3
    """Part of where the surface usually is that must be hidden."""
    for_s: Annotated[float, Meta(ge=0, le=86400)] = 5.0
    """For so long, in media time."""


class SegmenterConfig(Strict, frozen=True):
    """Which network names the class of each part of the picture, and how often."""

    model: str = "cascade"
    """Name of a shipped segmenter, or folder of its stages."""
    rho: Annotated[float, Meta(gt=0, le=1)] | None = None
    """What a stage is surer of than this is decided there; None for the model's own."""
    per_s: Annotated[float, Meta(gt=0, le=1000)] = 5.0
    """Frames looked at a second of media time, of each camera, at the most."""
    carry_over: bool = True
    """Keep the labels of what has not changed since the frame before."""
    surfaces: dict[Name, SurfaceConfig] = msgspec.field(default_factory=dict)
    """Surfaces that are watched, by a name of yours."""
    opacity: Annotated[float, Meta(ge=0, le=1)] = 0.35
    """Of the colours in what is written; 0 for none."""
    device: str = "auto"
    """auto, cpu, or a device such as cuda:0."""


class RecordConfig(Strict, frozen=True):
    """Segments on disk."""

    folder: str = ""
    segment_s: Annotated[float, Meta(ge=1, le=86400)] = 60.0
    min_free_mb: Annotated[int, Meta(ge=0)] = 2
    """No segment is begun with less free space, so that the machine stays usable."""


class SupervisorConfig(Strict, frozen=True):
    """When a stage is given up, and how long it may take."""

    restarts: Annotated[int, Meta(ge=0)] = 5
    """Restarts of one stage within window_s; one more and it has failed."""
    window_s: Annotated[float, Meta(gt=0)] = 60.0
    ready_s: Annotated[float, Meta(gt=0)] = 60.0
    """A stage that is not ready by then is replaced."""
    beat_s: Annotated[float, Meta(gt=0)] = 2.5
    """A stage that has not been heard of for so long is replaced."""
    stop_s: Annotated[float, Meta(gt=0.5)] = 4.5
    """From the request to stop to the kill of what is left."""


class Config(Strict, frozen=True):
    """Everything that one run needs to know."""

    cameras: dict[Name, CameraConfig]
    detector: DetectorConfig | None = msgspec.field(default_factory=DetectorConfig)
    tracker: TrackerConfig = TrackerConfig()
    actions: ActionsConfig | None = None
    segmenter: SegmenterConfig | None = None
    encode: EncodeConfig = EncodeConfig()
    record: RecordConfig = RecordConfig()
    events: EventsConfig = EventsConfig()
    rules: dict[Name, RuleConfig] = msgspec.field(default_factory=dict)
    """What is an alarm, and what is done then, by name."""
    bridges: dict[Name, BridgeConfig] = msgspec.field(default_factory=dict)
    """Brokers and servers that events go to, by name."""
    supervisor: SupervisorConfig = SupervisorConfig()
    duration_s: Seconds = 0.0
    """Stop after so many seconds of media (offline) or of time (live); 0 for never."""

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ConfigError("cameras: must name at least one camera, got none; add one")
        seen: dict[str, str] = {}
        for name, camera in self.cameras.items():
            if not camera.source:
                raise ConfigError(f"cameras.{name}.source: must not be empty; give a file or URI")
            out = str(Path(camera.out).resolve()) if camera.out else ""
            for what, value in (("source", camera.source), ("out", out)):
                other = seen.setdefault(f"{what} {value}", name) if value else name
                if other != name:
                    raise ConfigError(
                        f"cameras.{name}.{what}: must differ from that of camera {other!r}; "
                        "each camera needs its own, so remove one of the two"
                    )
            for rule in camera.hide:
                self._check_hidden(f"cameras.{name}.hide", rule)
            check_view(
                f"cameras.{name}", camera.zones, camera.lines, camera.calibration,
                found=self.detector.classes if self.detector else None,
                segmented=self.segmenter is not None,
            )  # fmt: skip
        if self.detector and self.detector.score_low > self.detector.score:
            raise ConfigError(
                f"detector.score_low: must be at most detector.score ({self.detector.score}), "
                f"got {self.detector.score_low}; lower it"
            )
        if self.acts_by_track and self.detector is None:
            raise ConfigError(
                "actions.scope: track needs a detector, got none; configure one, or use frame"
            )
        if self.actions and self.actions.off > self.actions.on:
            raise ConfigError(
                f"actions.off: must be at most actions.on ({self.actions.on}), got "
                f"{self.actions.off}; lower it"
            )
        low, high = self.tracker.low_score, self.tracker.high_score
        if low is not None and high is not None and low > high:
            raise ConfigError(
                f"tracker.low_score: must be at most tracker.high_score ({high}), got {low}; "
                "lower it"
            )
        check_address(self.events.publish, allow_remote=self.events.allow_remote)
        if self.events.replay not in ("auto", "off"):
            check_address(
                self.events.replay, allow_remote=self.events.allow_remote, where="events.replay"
            )
        if self.events.log == "off" and (self.rules or self.bridges):
            raise ConfigError(
                "events.log: must not be off, for rules and bridges read it; leave it out, or name "
                "a file such as events.db"
            )
        check_bridges(self.bridges, self.cameras, (*TYPES, *MADE))
        check_rules(self.rules, self._surroundings())

    def _surroundings(self) -> Surroundings:
        hooks = [name for name, each in self.bridges.items() if isinstance(each, WebhookConfig)]
        return Surroundings(
            zones={name: camera.zones for name, camera in self.cameras.items()},
            lines={name: camera.lines for name, camera in self.cameras.items()},
            recorded={name: bool(self.record_folder(name)) for name in self.cameras},
            classes=self.detector.classes if self.detector else None,
            webhooks=hooks,
            actions=self.actions is not None,
            segmenter=self.segmenter is not None,
            codec=self.encode.codec,
        )

    def _check_hidden(self, where: str, rule: HideConfig) -> None:
        if not rule.classes and not rule.polygons:
            raise ConfigError(f"{where}: must name classes or polygons, got none; add some")
        if any(len(polygon) < 3 for polygon in rule.polygons):
            raise ConfigError(f"{where}.polygons: must have 3 corners or more; add the missing")
        if rule.classes and self.detector is None:
            raise ConfigError(f"{where}.classes: need a detector, got none; configure one")
        only = set(self.detector.classes) if self.detector else set()
        for name in ["person" if name == "head" else name for name in rule.classes]:
            if only and name not in only:
                raise ConfigError(
                    f"{where}.classes: {name!r} must be in detector.classes to be found; add it"
                )

    @property
    def acts_by_track(self) -> bool:
        """True if actions are those of tracked persons."""
        return self.actions is not None and self.actions.scope == "track"

    def writes(self, camera: str) -> bool:
        """True if frames of this camera are encoded."""
        return bool(self.cameras[camera].out or self.record_folder(camera))

    def record_folder(self, camera: str) -> str:
        """Where this camera's segments go; empty for nowhere."""
        return self.cameras[camera].record or self.record.folder
