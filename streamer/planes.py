"""One picture as its three planes of YUV 4:2:0 (I420, limited range); views, no copies.

Knows no pool, no process, and no library but numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.memory import picture_bytes

U8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Planes:
    """Luma and the two chroma planes of one picture.

    y: (H, W) uint8, 16..235. u, v: (ceil(H/2), ceil(W/2)) uint8, 16..240, neutral 128.
    Rows may be padded (strided views); from_buffer and empty give dense ones, laid out Y, U, V.
    """

    y: U8
    u: U8
    v: U8

    def __post_init__(self) -> None:
        height, width = self.y.shape
        chroma = ((height + 1) // 2, (width + 1) // 2)
        if self.u.shape != chroma or self.v.shape != chroma:
            raise ValueError(
                f"chroma planes must be {chroma} for luma {self.y.shape}, "
                f"got {self.u.shape} and {self.v.shape}"
            )

    @property
    def width(self) -> int:
        """Luma samples in a row."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """Luma rows."""
        return int(self.y.shape[0])

    @staticmethod
    def size_bytes(width: int, height: int) -> int:
        """Bytes of a dense picture of this geometry."""
        return picture_bytes(width, height)

    @classmethod
    def from_buffer(
        cls,
        buffer: memoryview | bytearray | bytes | U8,
        width: int,
        height: int,
        *,
        offset: int = 0,
    ) -> Planes:
        """View `size_bytes(width, height)` bytes of a buffer, from offset on, as dense planes."""
        flat = np.frombuffer(buffer, np.uint8, cls.size_bytes(width, height), offset)
        half_w, half_h = (width + 1) // 2, (height + 1) // 2
        luma, chroma = width * height, half_w * half_h
        return cls(
            flat[:luma].reshape(height, width),
            flat[luma : luma + chroma].reshape(half_h, half_w),
            flat[luma + chroma :].reshape(half_h, half_w),
        )

    @classmethod
    def empty(cls, width: int, height: int) -> Planes:
        """Fresh dense planes with undefined content."""
        return cls.from_buffer(bytearray(cls.size_bytes(width, height)), width, height)

    def copy_from(self, other: Planes) -> None:
        """Copy a picture of the same size into these planes."""
        self.y[:] = other.y
        self.u[:] = other.u
        self.v[:] = other.v

    def fill(self, y: int, u: int = 128, v: int = 128) -> None:
        """Paint everything in one colour (black is 16, 128, 128)."""
        self.y[:], self.u[:], self.v[:] = y, u, v
