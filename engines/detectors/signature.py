"""Recognise a detector by what its engine says of inputs, outputs and metadata; no picture is seen.

A network exported by this project names its family and geometry in the ONNX metadata; the public
ones are known by their shapes. What fits none of them is refused, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engines.base import Engine, TensorSpec
from engines.errors import ModelError

Colour = Literal["bgr", "rgb", "yuv"]
Layout = Literal["anchorfree", "fastestdet"]

_COLOURS: dict[str, Colour] = {"bgr": "bgr", "rgb": "rgb", "yuv": "yuv"}

FAMILY = "streamer.detector"
"""Value of the metadata key "family" of this project's own detectors."""

_COCO80_LINE = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO80 = tuple(_COCO80_LINE.split(","))
"""Names of the 80 classes of COCO, in the order of YOLOX and FastestDet."""

STREET_CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
"""What this project's own detector knows."""

STREET_STRIDES = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Signature:
    """How to feed a detector and how to read it."""

    family: str
    layout: Layout
    """anchorfree: (N, cells, 4 + objectness + classes); fastestdet: (N, 5 + classes, h, w)."""
    input: TensorSpec
    output: TensorSpec
    classes: tuple[str, ...]
    colour: Colour
    scale: float = 1.0
    """What pixel values 0..255 are multiplied with."""
    letterbox: bool = True
    """True: keep the aspect and pad below and right with grey; False: stretch."""
    strides: tuple[int, ...] = ()
    objectness: bool = False

    @property
    def width(self) -> int:
        """Pixels across of the network's input."""
        return _axis(self.input, 3)

    @property
    def height(self) -> int:
        """Pixels down of the network's input."""
        return _axis(self.input, 2)

    @property
    def max_batch(self) -> int | None:
        """Pictures that one request may hold; None for any number."""
        return self.input.shape[0]


def recognise(engine: Engine, where: str) -> Signature:
    """Find the one known kind of detector that an engine is.

    Raises:
        ModelError: it is none; the text lists the known kinds and what was seen.
    """
    if len(engine.inputs) == len(engine.outputs) == 1:
        image, output = engine.inputs[0], engine.outputs[0]
        is_image = len(image.shape) == 4 and image.shape[1] == 3 and None not in image.shape[2:]
        if is_image and engine.metadata.get("family") == FAMILY:
            return _own(engine, image, output, where)
        if is_image and image.dtype == np.float32:
            found = _yolox(image, output) or _fastestdet(image, output)
            if found is not None:
                return found
    seen = "; ".join(map(str, (*engine.inputs, *engine.outputs)))
    raise ModelError(
        f"{where}: network must be a known detector, got {seen}; known are: one of this project "
        f"(metadata family={FAMILY}), YOLOX with an undecoded head (float32 1x3xHxW -> 1xNx85, "
        "N the cells of strides 8, 16 and 32), FastestDet (float32 1x3xHxW -> 1x85xH/16xW/16)"
    )


def cells(width: int, height: int, strides: tuple[int, ...]) -> int:
    """Count the grid cells of all strides over an input."""
    return sum((width // s) * (height // s) for s in strides)


def _own(engine: Engine, image: TensorSpec, output: TensorSpec, where: str) -> Signature:
    try:
        classes = tuple(engine.metadata["classes"].split(","))
        strides = tuple(int(s) for s in engine.metadata["strides"].split(","))
        colour = _COLOURS[engine.metadata["colour"]]
        scale = float(engine.metadata["scale"])
        letterbox = engine.metadata["letterbox"] == "1"
        objectness = engine.metadata["objectness"] == "1"
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{where}: metadata of a detector must give classes, strides, colour, scale, letterbox "
            f"and objectness, got {dict(engine.metadata)}; export it again"
        ) from error
    rows = (cells(_axis(image, 3), _axis(image, 2), strides), 4 + objectness + len(classes))
    if output.shape[1:] != rows:
        raise ModelError(
            f"{where}: output must be ?x{rows[0]}x{rows[1]}, as strides and classes in the "
            f"metadata say, got {output}; export it again"
        )
    return Signature(
        FAMILY,
        "anchorfree",
        image,
        output,
        classes,
        colour,
        scale=scale,
        letterbox=letterbox,
        strides=strides,
        objectness=objectness,
    )


def _yolox(image: TensorSpec, output: TensorSpec) -> Signature | None:
    strides = (8, 16, 32)
    rows = (cells(_axis(image, 3), _axis(image, 2), strides), 5 + len(COCO80))
    if output.shape[1:] != rows:
        return None
    return Signature(
        "yolox", "anchorfree", image, output, COCO80, "bgr", strides=strides, objectness=True
    )


def _fastestdet(image: TensorSpec, output: TensorSpec) -> Signature | None:
    if output.shape[1:] != (5 + len(COCO80), _axis(image, 2) // 16, _axis(image, 3) // 16):
        return None
    return Signature(
        "fastestdet", "fastestdet", image, output, COCO80, "bgr", scale=1 / 255, letterbox=False
    )


def _axis(spec: TensorSpec, axis: int) -> int:
    length = spec.shape[axis]
    assert length is not None, "recognise has refused free picture axes"
    return length
