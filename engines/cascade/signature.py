"""Say how a cascade's three files must be fed and read, from what they say about themselves.

Imports no engine's library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.base import Engine
from engines.errors import ModelError

FAMILY = "cascade"
FILES = ("stage1.onnx", "stage2.onnx", "stage3.onnx")
STRIDE = 4
"""Of the features that travel between the stages, and of the merged logits."""
HALO = 1
"""Positions around a block that stages 2 and 3 read."""
LAST_SHARE = 0.75
"""A block goes on to the last stage only if more than this share of it is undecided: that stage
costs most and finds least that is new."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Geometry, classes and tuned rule of one cascade."""

    width: int
    height: int
    block_px: int
    channels: int
    classes: tuple[str, ...]
    rho: float
    share: float

    @property
    def cells(self) -> int:
        """Side of a block in positions of the features."""
        return self.block_px // STRIDE

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return self.height // self.block_px, self.width // self.block_px

    def metadata(self, stage: int) -> dict[str, str]:
        """What the file of one stage says about itself."""
        return {
            "family": FAMILY,
            "stage": str(stage),
            "size": f"{self.width}x{self.height}",
            "block_px": str(self.block_px),
            "channels": str(self.channels),
            "classes": ",".join(self.classes),
            "rho": repr(self.rho),
            "share": repr(self.share),
        }


def recognise(engines: Sequence[Engine], folder: Path) -> Signature:
    """Read the signature of three stage engines.

    Raises:
        ModelError: a file is no stage of a cascade, or of another cascade than the first.
    """
    first = dict(engines[0].metadata)
    for number, (engine, file) in enumerate(zip(engines, FILES, strict=True), start=1):
        found = dict(engine.metadata)
        if (found.get("family"), found.get("stage")) != (FAMILY, str(number)):
            raise ModelError(
                f"{folder / file}: file must be stage {number} of a cascade, got "
                f"family {found.get('family')!r}, stage {found.get('stage')!r}; "
                "export the three stages again"
            )
        differing = sorted(key for key in first if key != "stage" and found.get(key) != first[key])
        if differing:
            raise ModelError(
                f"{folder / file}: {differing[0]} must be {first[differing[0]]!r} as in "
                f"{FILES[0]}, got {found.get(differing[0])!r}; export the three stages together"
            )
    try:
        return _parse(first)
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{folder / FILES[0]}: metadata must describe a cascade, got {error}; export it again"
        ) from error


def read_classes(path: Path, count: int) -> tuple[str, ...]:
    """Read other names for the classes, one a line; a comment begins with #.

    Raises:
        ModelError: the file can't be read, or names another number of classes.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: class file must be readable text, got {error}") from error
    names = tuple(text for line in lines if (text := line.partition("#")[0].strip()))
    if len(names) != count or len(set(names)) != count:
        raise ModelError(
            f"{path}: class file must name {count} different classes, one a line, as the network "
            f"has, got {len(names)}, {len(set(names))} different; correct the file or drop it"
        )
    return names


def _parse(metadata: Mapping[str, str]) -> Signature:
    width, height = (int(n) for n in metadata["size"].split("x"))
    signature = Signature(
        width=width,
        height=height,
        block_px=int(metadata["block_px"]),
        channels=int(metadata["channels"]),
        classes=tuple(metadata["classes"].split(",")),
        rho=float(metadata["rho"]),
        share=float(metadata["share"]),
    )
    block = signature.block_px
    if block < 8 or block % 8 or width % block or height % block or min(width, height) < block:
        raise ValueError(f"size {width}x{height} with blocks of {block}")
    return signature
