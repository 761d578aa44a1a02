"""Scale one picture into another of a different shape, with black bars; wherever sizes differ."""

from __future__ import annotations

import cv2

from streamer.planes import Planes


def letterbox(source: Planes, into: Planes) -> tuple[int, int, int, int]:
    """Scale a picture into another size, its shape kept, with black bars around it.

    Returns:
        x, y, width and height of the picture inside `into`; x and y are even.
    """
    scale = min(into.width / source.width, into.height / source.height)
    width, height = (
        max(1, min(round(side * scale), limit))
        for side, limit in ((source.width, into.width), (source.height, into.height))
    )
    x, y = (into.width - width) // 4 * 2, (into.height - height) // 4 * 2
    into.fill(16)
    into.y[y : y + height, x : x + width] = cv2.resize(
        source.y, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    half_w, half_h = (width + 1) // 2, (height + 1) // 2
    for plane, target in ((source.u, into.u), (source.v, into.v)):
        target[y // 2 : y // 2 + half_h, x // 2 : x // 2 + half_w] = cv2.resize(
            plane, (half_w, half_h), interpolation=cv2.INTER_LINEAR
        )
    return x, y, width, height
