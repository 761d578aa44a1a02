"""Recognise a classifier of crops by what its file says of itself; no picture is seen.

The ONNX metadata must say what the outputs mean; a guess would reject the wrong boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engines.base import Engine, TensorSpec
from engines.crops import CropFormat
from engines.errors import ModelError

Kind = Literal["verifier", "classes", "attributes"]
Colour = Literal["yuv", "rgb", "bgr"]
_KINDS: dict[str, Kind] = {
    "verifier": "verifier", "classes": "classes", "attributes": "attributes",
}  # fmt: skip
_COLOURS: dict[str, Colour] = {"yuv": "yuv", "rgb": "rgb", "bgr": "bgr"}

FAMILY = "streamer.classifier"
"""Value of the metadata key "family"."""

GROUPS = (("person",), ("bicycle", "motorcycle"), ("car", "bus", "truck"))
"""What this project's own verifier tells apart; the other class is background."""
CHECK_SIZE = (48, 64)
"""Width and height that it sees."""
CHECK_MARGIN = 0.2


@dataclass(frozen=True, slots=True)
class Signature:
    """How to feed a classifier and how to read it. Outputs are logits, (N, len(names))."""

    kind: Kind
    """verifier: one score for each name that a box is right to be called so.
    classes: the best of exclusive names. attributes: each name holds or not."""
    names: tuple[str, ...]
    accepts: tuple[tuple[str, ...], ...]
    """verifier: the detector's classes that each name stands for."""
    fusion: tuple[float, float, float]
    """verifier: weights of the logits of detector and verifier, and an offset."""
    input: TensorSpec
    output: TensorSpec
    crop: CropFormat

    @property
    def max_batch(self) -> int | None:
        """Crops that one request holds; None for any number."""
        return self.input.shape[0]


def recognise(engine: Engine, where: str) -> Signature:
    """Read what a classifier's file says.

    Raises:
        ModelError: it says too little, or something that its inputs and outputs do not bear out.
    """
    said = engine.metadata
    try:
        if said["family"] != FAMILY:
            raise KeyError(f"family={FAMILY}")
        names = tuple(said["names"].split(","))
        kind, colour = _KINDS[said["kind"]], _COLOURS[said["colour"]]
        accepts = tuple(
            tuple(g.split("+")) for g in said.get("accepts", ",".join(names)).split(",")
        )
        fusion = _three(said.get("fusion", "1,1,0"))
        mean, scale = _three(said.get("mean", "0,0,0")), _three(said.get("scale", "1,1,1"))
        margin = float(said.get("margin", "0"))
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{where}: metadata of a classifier must give family={FAMILY}, kind (verifier, classes "
            "or attributes), names and colour (yuv, rgb or bgr), and may give accepts, fusion, "
            f"mean, scale and margin; got {dict(said)} ({error}); write them with "
            "python -m engines.classifiers.describe"
        ) from error
    specs = (*engine.inputs, *engine.outputs)
    image, output = specs[0], specs[-1]
    fits = (
        len(specs) == 2
        and len(image.shape) == 4
        and image.shape[1] == 3
        and None not in image.shape[2:]
        and image.dtype in (np.uint8, np.float32)
        and output.shape[1:] == (len(names),) == (len(accepts),)
    )
    if not fits:
        raise ModelError(
            f"{where}: a classifier of {len(names)} names must take uint8 or float32 Nx3xHxW and "
            f"give Nx{len(names)}, with as many groups in accepts; got {'; '.join(map(str, specs))}"
            f" and {len(accepts)} groups; export it again, or correct names and accepts"
        )
    height, width = (length or 0 for length in image.shape[2:])
    crop = CropFormat(width, height, colour, margin, mean, scale)
    return Signature(kind, names, accepts, fusion, image, output, crop)


def _three(text: str) -> tuple[float, float, float]:
    first, second, third = (float(number) for number in text.split(","))
    return first, second, third
