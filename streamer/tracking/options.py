"""Every knob of the tracker, checked, and the named settings that make the known trackers.

One tracker reads them all: SORT, ByteTrack, OC-SORT and BoT-SORT differ in which steps they take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from streamer.errors import ConfigError

_PARTS = (
    *("low_score", "high_score", "birth_score", "match_iou", "low_iou", "tentative_iou"),
    *("buffer", "momentum", "coast_share", "preview_probability"),
)
_SWITCHES = ("share_rows", "fuse_score", "recover", "camera_motion", "adapt_noise")


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """What the tracker does in one update; scores and IoU are in 0..1, times in media seconds."""

    low_score: float = 0.1
    """Detections below are ignored; equal to high_score, there is no second round."""
    high_score: float = 0.5
    """Detections from here on may extend any track; between low and high, only one in sight."""
    birth_score: float = 0.6
    """An unmatched detection from here on begins a track."""
    low_s: float = 0.0
    """A low detection extends a track that was unseen for so long before; 0: in the last frame."""
    match_iou: float = 0.2
    """Least overlap of a track's prediction with a high detection."""
    low_iou: float = 0.5
    """The same with a low detection."""
    tentative_iou: float = 0.3
    """The same for a track that is not confirmed yet."""
    buffer: float = 0.0
    """Widen boxes by this part on each side before the first and last round compares them."""
    share_rows: bool = False
    """Multiply the overlap by the root of the share of common rows (Hybrid-SORT's height)."""
    fuse_score: bool = True
    """Multiply the overlap by the score, so that the surer of two detections wins."""
    confirm_hits: int = 2
    """Matched detections after which a track is confirmed (and counted)."""
    confirm_s: float = 0.0
    """Least age of a confirmed track."""
    lost_s: float = 1.0
    """A track unseen for longer ends; so does every track over a gap of that length."""
    tentative_s: float = 0.0
    """The same for a track that is not confirmed yet; 0 ends it at its first miss."""
    coast_s: float = 0.0
    """For so long an unseen track stays confirmed, with its predicted box, before it is lost."""
    coast_share: float = 0.0
    """But only while at least this part of the missed tracks were found again within coast_s."""
    preview_probability: float = 1.0
    """Show (but don't count) a new track at once where those that began with such a score proved
    real with a higher probability; 1 shows none."""
    adapt_noise: bool = False
    """Learn the jitter of the detector's boxes from the filter's own errors."""
    momentum: float = 0.0
    """Weight of the angle between a track's course and the way to a detection (OC-SORT's OCM)."""
    recover: bool = False
    """Compare what is left with the last seen boxes too (OC-SORT's OCR)."""
    camera_motion: bool = False
    """Move tracks with the camera where the detections tell its motion (BoT-SORT)."""
    embedding_size: int = 0
    """Length of the appearance vectors that the detections carry; 0 looks at none."""
    appearance_distance: float = 0.25
    """Cosine distance up to which two looks are the same."""
    class_groups: tuple[tuple[int, ...], ...] = ()
    """Classes that detectors confuse, such as car, bus and truck: associated with each other, and
    the track takes the class with the highest sum of scores. Any other class is on its own."""

    def __post_init__(self) -> None:
        for name in _PARTS:
            self._check(name, 0.0, 1.0)
        for name in ("low_s", "confirm_s", "tentative_s", "coast_s"):
            self._check(name, 0.0, 3600.0)
        self._check("lost_s", 0.001, 3600.0)
        self._check("appearance_distance", 0.0, 2.0)
        for name, least in (("confirm_hits", 1), ("embedding_size", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"tracker.{name}: must be an int >= {least}, got {value!r}")
        for name in _SWITCHES:
            if type(getattr(self, name)) is not bool:
                raise ConfigError(
                    f"tracker.{name}: must be true or false, got {getattr(self, name)!r}"
                )
        if self.low_score > self.high_score:
            raise ConfigError(
                f"tracker.low_score: must be at most high_score {self.high_score}, "
                f"got {self.low_score}; equal values switch the second round off"
            )
        self._check_groups()

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not low <= value <= high:
            raise ConfigError(
                f"tracker.{name}: must be a number from {low:g} to {high:g}, got {value!r}"
            )

    def _check_groups(self) -> None:
        try:
            groups = tuple(tuple(group) for group in self.class_groups)
        except TypeError:
            raise ConfigError(
                "tracker.class_groups: must be a list of lists of class numbers, "
                f"got {self.class_groups!r}; such as [[2, 5, 7]]"
            ) from None
        members = [member for group in groups for member in group]
        if any(type(member) is not int for member in members) or len(set(members)) < len(members):
            raise ConfigError(
                "tracker.class_groups: each class must be an int and in one group only, "
                f"got {self.class_groups!r}"
            )
        object.__setattr__(self, "class_groups", groups)


_BYTETRACK = TrackerOptions()

NAMED: dict[str, TrackerOptions] = {
    "default": replace(
        _BYTETRACK,
        low_s=0.2,
        lost_s=2.5,
        buffer=0.1,
        share_rows=True,
        coast_s=0.15,
        coast_share=0.5,
        preview_probability=0.8,
        adapt_noise=True,
        camera_motion=True,
    ),
    "sort": replace(
        _BYTETRACK,
        low_score=0.3,
        high_score=0.3,
        birth_score=0.3,
        match_iou=0.3,
        fuse_score=False,
        confirm_hits=3,
        lost_s=0.25,
    ),
    "bytetrack": _BYTETRACK,
    "ocsort": replace(
        _BYTETRACK,
        birth_score=0.5,
        match_iou=0.3,
        fuse_score=False,
        confirm_hits=3,
        momentum=0.2,
        recover=True,
    ),
    "botsort": replace(_BYTETRACK, camera_motion=True),
}
"""Tracker names and what they mean; "default" is one setting for every detector and scene."""


def named_options(name: str, changes: dict[str, object]) -> TrackerOptions:
    """The settings of a named tracker with some of them changed.

    Raises:
        ConfigError: no such tracker, no such option, or a value that the option refuses.
    """
    if name not in NAMED:
        raise ConfigError(f"tracker: must be one of {', '.join(NAMED)}, got {name!r}")
    known = [field.name for field in fields(TrackerOptions)]
    for option in changes:
        if option not in known:
            raise ConfigError(f"tracker.{option}: no such option; there are {', '.join(known)}")
    return replace(NAMED[name], **changes)  # type: ignore[arg-type]
