"""Say how a detector is fed and read: the layout of its input and its outputs, and its classes.

families.py finds the signature of a network; preprocess.py and decode.py follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines.base import TensorSpec

Colour = Literal["bgr", "rgb", "yuv"]
Layout = Literal[
    "anchorfree", "fastestdet", "yolov5", "yolov8", "ssd", "retinanet", "fcos", "detr", "boxes"
]
Triple = tuple[float, float, float]

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
"""Names of the 80 classes of COCO, in the order of the YOLO families and FastestDet."""

NO_CLASS = "-"
"""Name of a place in the output that stands for no object; it is never reported."""

_COCO91_HOLES = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def _with_holes() -> tuple[str, ...]:
    names = iter(COCO80)
    return tuple(NO_CLASS if n in _COCO91_HOLES else next(names) for n in range(91))


COCO91 = _with_holes()
"""The same at the numbers that COCO itself gives them; 0 is the background."""

STREET_CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
"""What this project's own detector knows."""

STREET_STRIDES = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Signature:
    """How to feed a detector and how to read it."""

    family: str
    layout: Layout
    """anchorfree: (N, cells, 4 + objectness + classes); fastestdet: (N, 5 + classes, h, w);
    yolov5: (N, boxes, 5 + classes); yolov8: (N, 4 + classes, cells), both decoded to pixels;
    ssd, retinanet: (N, anchors, 4) and logits (N, anchors, classes); fcos: and (N, cells, 1);
    detr: (N, queries, 4) as parts of the picture and logits (N, queries, classes [+ 1]);
    boxes: (1, n, 4), scores (1, n), labels (1, n) [and masks (1, n, h, w)], all settled."""
    input: TensorSpec
    output: TensorSpec
    classes: tuple[str, ...]
    colour: Colour
    scale: float = 1.0
    """What pixel values 0..255 are multiplied with."""
    letterbox: bool = True
    """True: keep the aspect and pad below and right; False: stretch."""
    enlarge: bool = True
    """False: a letterbox keeps the pixels of frames that are smaller than the input."""
    strides: tuple[int, ...] = ()
    objectness: bool = False
    others: tuple[TensorSpec, ...] = ()
    """Outputs behind the first, in the order that the layout names them."""
    mean: Triple = (0.0, 0.0, 0.0)
    """Of scaled pixel values, subtracted from each channel, ..."""
    std: Triple = (1.0, 1.0, 1.0)
    """... which is then divided by this."""
    padding: tuple[int, int, int] = (114, 114, 114)
    """Grey of a letterbox, before scaling."""
    softmax: bool = False
    """detr: scores are shares of one, the last of them for no object; else each is a sigmoid."""

    @property
    def width(self) -> int:
        """Pixels across of the network's input."""
        return axis(self.input, 3)

    @property
    def height(self) -> int:
        """Pixels down of the network's input."""
        return axis(self.input, 2)

    @property
    def max_batch(self) -> int | None:
        """Pictures that one request may hold; None for any number."""
        return self.input.shape[0]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """All outputs, in the order that the layout names them."""
        return (self.output, *self.others)

    @property
    def has_masks(self) -> bool:
        """The outline of each object is given too."""
        return self.layout == "boxes" and len(self.others) == 3


def cells(width: int, height: int, strides: tuple[int, ...]) -> int:
    """Count the grid cells of all strides over an input."""
    return sum((width // s) * (height // s) for s in strides)


def axis(spec: TensorSpec, number: int) -> int:
    """Length of an axis that is known to be fixed."""
    length = spec.shape[number]
    assert length is not None, "networks with free picture axes are refused"
    return length
