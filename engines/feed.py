"""Say how frames reach a network whose graph scales and converts them itself; numpy alone.

engines.feed_graph puts that work in front of a network; this file is what the runtime needs of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.base import Array
from engines.errors import EngineMismatch, ModelError

U8 = NDArray[np.uint8]
Layout = Literal["planes", "bgr"]
Matrix = Literal["bt601", "bt709"]

METADATA_KEY = "feed"
PLANES = ("y", "u", "v")
PICTURE = "bgr"


@dataclass(frozen=True, slots=True)
class Feed:
    """Frames of one size on the one side, the input of a network on the other."""

    width: int
    """Of the frames, as all up to matrix."""
    height: int
    layout: Layout
    """planes: y, u and v of 4:2:0, each (N, rows, columns); bgr: (N, rows, columns, 3); uint8."""
    net_width: int
    """Of the network's picture, as all below."""
    net_height: int
    colour: Literal["bgr", "rgb", "yuv"]
    letterbox: bool
    """True: keep the aspect and pad below and right; False: stretch."""
    enlarge: bool = True
    """False: a letterbox keeps the pixels of frames that are smaller than the picture."""
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Values 0..255 of each channel of the network are multiplied with this, ..."""
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """... and this is added."""
    padding: tuple[int, int, int] = (114, 114, 114)
    """Values 0..255 of each channel in the padding."""
    matrix: Matrix = "bt601"
    """Of limited-range YUV."""

    def __post_init__(self) -> None:
        sizes = (self.width, self.height, self.net_width, self.net_height)
        if min(sizes) < 2:
            raise ValueError(
                f"feed: frames and pictures must be at least 2 pixels wide and high, got {sizes}"
            )

    @property
    def fitted(self) -> tuple[int, int]:
        """Width and height of the frame inside the network's picture, at its upper left."""
        if not self.letterbox:
            return self.net_width, self.net_height
        ratio = min(self.net_width / self.width, self.net_height / self.height)
        if not self.enlarge:
            ratio = min(ratio, 1.0)
        return max(int(self.width * ratio), 1), max(int(self.height * ratio), 1)

    @property
    def plane_sizes(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of y, u and v."""
        half = (self.height + 1) // 2, (self.width + 1) // 2
        return (self.height, self.width), half, half

    def arrays(self, frames: Sequence[tuple[U8, U8, U8]]) -> dict[str, Array]:
        """Turn planes of frames into the inputs of the engine; one frame is not copied.

        Raises:
            EngineMismatch: a frame has another size than the graph was made for.
        """
        for frame in frames:
            sizes = tuple(plane.shape for plane in frame)
            if sizes != self.plane_sizes:
                raise EngineMismatch(
                    f"feed: planes must have {self.plane_sizes} rows and columns, got {sizes}; "
                    "put scaling for this size in front of the network, or scale before it"
                )
        if len(frames) == 1:
            return {name: plane[None] for name, plane in zip(PLANES, frames[0], strict=True)}
        return {
            name: np.stack(batch)
            for name, batch in zip(PLANES, zip(*frames, strict=True), strict=True)
        }

    def to_metadata(self) -> str:
        """Text for the metadata of an ONNX file."""
        return json.dumps(asdict(self))


def read_feed(metadata: Mapping[str, str], where: str) -> Feed | None:
    """Read how a network wants to be fed, or None if it takes its small picture.

    Raises:
        ModelError: the metadata can't be read.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
        triples = {name: tuple(values[name]) for name in ("scale", "offset", "padding")}
        return Feed(**(values | triples))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{where}: metadata {METADATA_KEY!r} must say how to feed the network, got {text!r} "
            f"({error}); export it again"
        ) from error
