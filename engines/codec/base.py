"""Say what every codec looks like: one picture to bytes, bytes to one picture; imports numpy alone.

The state of the reference picture is an argument and a return value: a codec remembers nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
StateT = TypeVar("StateT")
Pack = Callable[[], bytes]
"""Turns the symbols of one frame into its payload; needs no network, and may run in a thread."""


class Planes420(Protocol):
    """Anything with three uint8 planes; chroma has half the size, rounded up."""

    @property
    def y(self) -> U8: ...
    @property
    def u(self) -> U8: ...
    @property
    def v(self) -> U8: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture: y (H, W), u and v of half the size, rounded up; uint8."""

    y: U8
    u: U8
    v: U8


class Codec(ABC, Generic[StateT]):
    """A codec of frames; one per thread."""

    name: str
    """What the header of a file says, such as "rt-nano"."""
    model_hash: bytes
    """SHA-256 of everything that decoding depends on."""
    qualities: int
    """Qualities are 0 (fewest bytes) to this, exclusive."""
    refresh_period: int
    """Frames from the intra frame between two refreshes of the memory; 0 for none."""

    @abstractmethod
    def analyse(
        self,
        frame: Planes420,
        state: StateT | None,
        *,
        quality: int,
        emphasis: NDArray[np.int8] | None = None,
        vectors: I32 | None = None,
    ) -> tuple[Pack, StateT]:
        """Run the network over one picture: the first and longer half of compress.

        The next frame may be analysed while the symbols of this one are packed.

        Args:
            frame, state, quality, emphasis: as for compress.
            vectors: what find_motion gave for this picture and the one of the state, if it was
                asked ahead.
        """

    def find_motion(self, frame: Planes420, before: Planes420) -> I32 | None:
        """Vectors from a picture to the one before it, None where the network finds them.

        Needs no state, and may run in a thread while the frame before is analysed.
        """
        del frame, before
        return None

    def is_at_rest(self, state: StateT) -> bool | None:
        """True if most of the last picture stayed where it was, None if that is not known."""
        del state
        return None

    def compress(
        self,
        frame: Planes420,
        state: StateT | None,
        *,
        quality: int,
        emphasis: NDArray[np.int8] | None = None,
    ) -> tuple[bytes, StateT]:
        """Code one picture, by itself without a state.

        Args:
            frame: limited-range planes.
            state: what compress returned for the frame before; None starts anew (intra).
            quality: 0..qualities-1.
            emphasis: (ceil(H/16), ceil(W/16)) added to the quality of each 16x16 block; None for
                the same everywhere, and for a codec of one quality.
        """
        pack, after = self.analyse(frame, state, quality=quality, emphasis=emphasis)
        return pack(), after

    @abstractmethod
    def close(self) -> None:
        """Let go of the networks."""

    @abstractmethod
    def decompress(
        self, payload: bytes, state: StateT | None, *, width: int, height: int, quality: int
    ) -> tuple[Picture, StateT]:
        """Draw the picture of some bytes.

        Args:
            payload: as compress returned them.
            state: what decompress returned for the frame before; None for an intra frame.
            width, height: of the picture, from the header of the file.
            quality: that of compress, from the record of the frame.

        Raises:
            BitstreamError: the bytes are damaged, or of another kind of frame.
        """


def check_quality(quality: int, qualities: int) -> None:
    """Refuse a quality that a codec does not have."""
    if not 0 <= quality < qualities:
        raise ValueError(f"quality must be 0..{qualities - 1}, got {quality}")
