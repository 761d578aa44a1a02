"""Keep the label maps of one camera, and give each frame the one that holds for it.

A frame that was not segmented has the last map before it, but never one from across a gap or an
epoch, or one that is too old. Knows no queue.
"""

from __future__ import annotations

from collections import deque

from engines.cascade.labelcode import decode
from streamer.analytics.footing import Surfaces
from streamer.messages import Annotation, FrameInfo, LabelMap

_KEPT = 256
"""Maps that wait for their frames at the most."""


class Maps:
    """One camera's maps, in the order of its frames.

    Args:
        longest_s: media time for which a map holds.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._maps: deque[tuple[FrameInfo, LabelMap | None]] = deque(maxlen=_KEPT)
        """None where the scene is another from this frame on."""
        self._decoded: tuple[LabelMap, Surfaces] | None = None

    def add(self, annotation: Annotation) -> None:
        """Take in what the segmenter says of a frame; what it says again is passed over."""
        info = annotation.info
        if annotation.label_map is None and not info.discontinuity:
            return
        if not self._maps or info.seq > self._maps[-1][0].seq:
            self._maps.append((info, annotation.label_map))

    def at(self, info: FrameInfo) -> Surfaces | None:
        """What lies below the objects of a frame, None where nobody knows; frames come in order."""
        while len(self._maps) > 1 and self._maps[1][0].seq <= info.seq:
            self._maps.popleft()
        if not self._maps or self._maps[0][0].seq > info.seq:
            return None
        since, label_map = self._maps[0]
        if info.discontinuity and since.seq < info.seq:
            self._maps[0] = (info, label_map := None)
        age_s = info.pts_s - since.pts_s
        if label_map is None or since.epoch != info.epoch or not 0 <= age_s <= self._longest_s:
            return None
        if self._decoded is None or self._decoded[0] is not label_map:
            labels = decode(label_map.coded, classes=len(label_map.class_names))
            self._decoded = (label_map, Surfaces(labels, label_map.class_names))
        return self._decoded[1]
