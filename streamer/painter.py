"""Draw what is known of a frame, and hide what must not be seen; runs in the encode process.

Where nothing new is known, the last boxes move along for a moment. Knows no file and no encoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.cascade.classes import PALETTE_RGB
from engines.cascade.labelcode import decode
from streamer.config import CameraConfig, HideConfig
from streamer.errors import ConfigError
from streamer.events import utc
from streamer.messages import Annotation, FrameInfo, LabelMap, Tracks
from streamer.outlines import Outline, of_tracks
from streamer.overlay import Overlay, Trails, colour_of, draw_label_map
from streamer.overlay.analytics import ViewOverlay
from streamer.overlay.conceal import conceal
from streamer.planes import Planes

PREDICT_S = 0.6
"""For so long the boxes of the last result are moved along where newer ones are missing."""
CAPTION_S = 1.0
"""For so long what was said last is shown where nothing newer is said."""
_MARGIN = 0.12
"""Of a box's size, on each side, is hidden with it."""
_HEAD = 0.2

Boxes = NDArray[np.float32]


class Painter:
    """Draws outlines, boxes, labels, trails and captions."""

    def __init__(self, camera: str, view: CameraConfig, *, map_opacity: float = 0.0) -> None:
        """Draw for one camera.

        Args:
            camera: name in the caption.
            view: its zones and lines.
            map_opacity: of the colours of a map of labels, 0..1.
        """
        self._camera, self._view = camera, view
        self._map_opacity = map_opacity
        self._overlay: Overlay | None = None
        self._view_overlay: ViewOverlay | None = None
        self._trails = Trails()
        self._tracks: Tracks | None = None
        self._ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._boxes: Boxes = np.empty((0, 4), np.float32)
        self._outlines: Sequence[Outline] = ()
        self._predicted = False
        self._annotations: dict[str, Annotation] = {}

    def learn(
        self, info: FrameInfo, tracks: Tracks | None, annotations: dict[str, Annotation]
    ) -> None:
        """Take in the results of this frame, or that there are none."""
        if self._tracks is not None and info.epoch != self._tracks.info.epoch:
            self._tracks, self._trails = None, Trails()
        self._annotations = {
            stage: annotation
            for stage, annotation in (self._annotations | annotations).items()
            if annotation.info.epoch == info.epoch
        }
        self._predicted = tracks is None
        if tracks is not None:
            self._tracks = tracks
            self._ids = np.frombuffer(tracks.ids, np.int64)
            self._boxes = np.frombuffer(tracks.boxes, np.float32).reshape(-1, 4)
            self._outlines = of_tracks(tracks)
            self._trails.update(self._ids, self._boxes)

    def paint(self, planes: Planes, info: FrameInfo) -> None:
        """Draw on one picture."""
        overlay = self._overlay
        if overlay is None or (overlay.width, overlay.height) != (info.width, info.height):
            overlay = self._overlay = Overlay(info.width, info.height, matrix=info.matrix)
            self._view_overlay = ViewOverlay(
                self._view, info.width, info.height, matrix=info.matrix
            )
        captions = dict(
            caption
            for annotation in self._annotations.values()
            if 0 <= info.pts_s - annotation.info.pts_s <= CAPTION_S
            for caption in annotation.captions
        )
        for annotation in self._annotations.values():
            if annotation.label_map is not None and self._map_opacity:
                self._paint_map(planes, annotation.label_map, info.matrix)
        shown = 0
        if self._tracks is not None:
            age_s = float(info.pts_s - self._tracks.info.pts_s)
            if 0 <= age_s <= PREDICT_S:
                self._paint_tracks(overlay, planes, self._tracks, age_s, captions)
                shown = len(self._ids)
        assert self._view_overlay is not None
        self._view_overlay.draw(planes, self._tracks, self.objects_xyxy(info))
        overlay.caption(planes, f"{self._camera}  {utc(info.capture_ns)[:-4]}Z", f"{shown} tracked")
        if 0 in captions:
            overlay.caption(planes, captions[0], line=1, alert=True)

    def _paint_map(self, planes: Planes, label_map: LabelMap, matrix: str) -> None:
        labels = decode(label_map.coded, classes=len(label_map.class_names))
        palette = np.resize(PALETTE_RGB, (len(label_map.class_names), 3))
        draw_label_map(planes, labels, palette, self._map_opacity, matrix=matrix)

    def objects_xyxy(self, info: FrameInfo) -> Boxes | None:
        """(N, 4) px: where the tracked objects of this frame are; None where nobody knows."""
        if self._tracks is None:
            return None
        age_s = float(info.pts_s - self._tracks.info.pts_s)
        return _moved(self._tracks, self._boxes, age_s) if 0 <= age_s <= PREDICT_S else None

    def _paint_tracks(
        self,
        overlay: Overlay,
        planes: Planes,
        tracks: Tracks,
        age_s: float,
        captions: dict[int, str],
    ) -> None:
        boxes = _moved(tracks, self._boxes, age_s)
        names = tracks.detections.class_names
        classes = np.frombuffer(tracks.classes, np.int16).tolist()
        scores = np.frombuffer(tracks.scores, np.float32).tolist()
        ids = self._ids.tolist()
        labels = [
            f"{names[index]} {track_id} {captions.get(track_id, f'{score:.2f}')}"
            for index, track_id, score in zip(classes, ids, scores, strict=True)
        ]
        colours = [colour_of(track_id) for track_id in ids]
        ways = (boxes - self._boxes)[:, :2]
        moved = (
            tuple(part + way for part in outline)
            for outline, way in zip(self._outlines, ways, strict=True)
        )
        overlay.outlines(planes, moved, colours)
        lines = self._trails.lines()
        overlay.trails(planes, lines.values(), [colour_of(track_id) for track_id in lines])
        overlay.boxes(planes, boxes, colours, labels, corners=self._predicted)


class Hider:
    """Hides people, heads or places in one output; where nothing is known, everything.

    A detector that misses somebody in one frame must not show them, so what was found in the last
    PREDICT_S stays hidden, moved along.

    Args:
        camera: for errors.
        rules: of this output.
    """

    def __init__(self, camera: str, rules: tuple[HideConfig, ...]) -> None:
        self._camera = camera
        self._rules = rules
        self._looks = any(rule.classes for rule in rules)
        self._known: deque[Tracks] = deque()

    def learn(self, info: FrameInfo, tracks: Tracks | None) -> None:
        """Take in the result of this frame, or that there is none.

        Raises:
            ConfigError: the detector knows no such class.
        """
        if not self._looks:
            return
        if tracks is not None:
            self._check(tracks.detections.class_names)
            self._known.append(tracks)
        while self._known and not self._is_fresh(self._known[0].info, info):
            self._known.popleft()

    def hide(self, planes: Planes, info: FrameInfo) -> None:
        """Blur or fill on one picture what must not be seen."""
        if self._looks and not self._known:
            everything = np.array([[0, 0, planes.width, planes.height]], np.float32)
            conceal(planes, everything, how="fill")
            return
        size = np.array([planes.width, planes.height], np.float32)
        for rule in self._rules:
            found = [_hidden(tracks, rule.classes, info) for tracks in self._known]
            boxes = np.concatenate([np.empty((0, 4), np.float32), *found])
            polygons = [np.array(polygon, np.float32) * size for polygon in rule.polygons]
            conceal(planes, boxes, polygons, how=rule.how)

    def _check(self, names: tuple[str, ...]) -> None:
        for rule in self._rules:
            for name in rule.classes:
                if (name if name != "head" else "person") not in names:
                    raise ConfigError(
                        f"cameras.{self._camera}.hide.classes: {name!r} must be a class of the "
                        f"detector, which finds {', '.join(names)}; choose one of these"
                    )

    @staticmethod
    def _is_fresh(known: FrameInfo, now: FrameInfo) -> bool:
        return known.epoch == now.epoch and 0 <= now.pts_s - known.pts_s <= PREDICT_S


def _hidden(tracks: Tracks, classes: tuple[str, ...], info: FrameInfo) -> Boxes:
    """What was found of these classes, where it was and where it will be now, with a margin."""
    age_s = float(info.pts_s - tracks.info.pts_s)
    names = tracks.detections.class_names
    found = tracks.detections
    track_boxes = np.frombuffer(tracks.boxes, np.float32).reshape(-1, 4)
    boxes = np.concatenate(
        [
            np.frombuffer(found.boxes, np.float32).reshape(-1, 4),
            track_boxes,
            _moved(tracks, track_boxes, age_s),
        ]
    )
    track_classes = np.frombuffer(tracks.classes, np.int16)
    kinds = np.concatenate([np.frombuffer(found.classes, np.int16), track_classes, track_classes])
    whole = np.isin(kinds, [names.index(name) for name in classes if name != "head"])
    parts = [boxes[whole]]
    if "head" in classes:
        heads = boxes[np.isin(kinds, [names.index("person")])].copy()
        heads[:, 3] = heads[:, 1] + (heads[:, 3] - heads[:, 1]) * _HEAD
        parts.append(heads)
    chosen = np.concatenate(parts)
    margin = (chosen[:, 2:] - chosen[:, :2]) * np.float32(_MARGIN)
    return np.concatenate([chosen[:, :2] - margin, chosen[:, 2:] + margin], axis=1)


def _moved(tracks: Tracks, boxes: Boxes, age_s: float) -> Boxes:
    """Boxes of tracks where they will be after age_s."""
    velocities = np.frombuffer(tracks.velocities, np.float32).reshape(-1, 2)
    return np.asarray(boxes + np.tile(velocities, 2) * np.float32(age_s), np.float32)
