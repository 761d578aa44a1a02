"""Write one picture as a PNG file; in the command line's tools."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.errors import SinkError


def write_png(path: Path, bgr: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 BGR.

    Raises:
        SinkError: the file can't be written.
    """
    _, data = cv2.imencode(".png", bgr)
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise SinkError(f"{path}: {error.strerror}; choose another file") from error
