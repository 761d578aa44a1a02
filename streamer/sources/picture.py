"""Turn one decoded picture of any format into limited-range I420 planes; in the decode process.

Knows no stream and no clock. A 4:2:0 picture is copied once, row by row;
others go through swscale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from streamer.planes import Planes
from streamer.sources.base import FrameTimes

Matrix = Literal["bt601", "bt709"]

_LIMITED, _FULL = 1, 2  # AVColorRange
_BT709 = 1  # AVColorSpace
_BT601 = (4, 5, 6)  # fcc, bt470bg, smpte170m
_RGB = 0
_LARGEST_SD_HEIGHT_PX = 576
# Older PyAV leaves a picture as it is if only its range differs.
_RANGE_NEEDS_ANOTHER_FORMAT = int(av.__version__.partition(".")[0]) < 18


@dataclass(slots=True)
class PictureFrame:
    """A decoded picture with its times; its memory belongs to the decoder until it is dropped."""

    picture: av.VideoFrame
    times: FrameTimes

    @property
    def width(self) -> int:
        """Luma samples in a row."""
        return int(self.picture.width)

    @property
    def height(self) -> int:
        """Luma rows."""
        return int(self.picture.height)

    def write_to(self, planes: Planes) -> None:
        """Write the picture into planes of exactly this frame's size."""
        if (planes.width, planes.height) != (self.width, self.height):
            raise ValueError(
                f"planes must be {self.width}x{self.height} as the frame, "
                f"got {planes.width}x{planes.height}"
            )
        write_picture(self.picture, planes)


def write_picture(picture: av.VideoFrame, planes: Planes) -> None:
    """Copy a picture into planes of its size, converting only what has to be converted."""
    name = picture.format.name
    limited = picture.color_range != _FULL
    if name == "nv12" and limited:
        chroma = _rows(picture, 1, 2 * planes.u.shape[1])
        planes.y[:] = _rows(picture, 0, planes.width)
        planes.u[:] = chroma[:, 0::2]
        planes.v[:] = chroma[:, 1::2]
        return
    if name != "yuv420p" or not limited:
        picture = _to_limited_i420(picture)
    planes.y[:] = _rows(picture, 0, planes.width)
    planes.u[:] = _rows(picture, 1, planes.u.shape[1])
    planes.v[:] = _rows(picture, 2, planes.v.shape[1])


def matrix_of(colorspace: int, pixel_format: str, height: int) -> Matrix:
    """Name the matrix of the planes; a stream that doesn't say is HD (bt709) above 576 lines."""
    if colorspace == _BT709:
        return "bt709"
    converted_by_us = pixel_format.startswith(("rgb", "bgr", "gbr", "gray", "pal"))
    if colorspace in (*_BT601, _RGB) or converted_by_us:
        return "bt601"
    return "bt709" if height > _LARGEST_SD_HEIGHT_PX else "bt601"


def _to_limited_i420(picture: av.VideoFrame) -> av.VideoFrame:
    full = picture.color_range == _FULL or picture.format.name.startswith("yuvj")
    source_range = _FULL if full else _LIMITED
    if full and picture.format.name == "yuv420p" and _RANGE_NEEDS_ANOTHER_FORMAT:
        picture, source_range = _reformat(picture, "yuv444p", source_range), _LIMITED
    return _reformat(picture, "yuv420p", source_range)


def _reformat(picture: av.VideoFrame, name: str, source_range: int) -> av.VideoFrame:
    return picture.reformat(format=name, src_color_range=source_range, dst_color_range=_LIMITED)


def _rows(picture: av.VideoFrame, index: int, width: int) -> NDArray[np.uint8]:
    """View one plane without its padding, `width` bytes of each row."""
    plane = picture.planes[index]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, :width]
