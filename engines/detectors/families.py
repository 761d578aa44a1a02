"""Find out what kind of detector a network is, from its inputs, outputs, operators and metadata.

One entry for each family says how its outputs look and how it is fed. What fits none is refused,
what fits several is refused with their names; nothing is guessed and no picture is seen.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from engines.base import Engine, TensorSpec
from engines.detectors.anchors import (
    RETINA_SHAPES,
    SSD_SIZE,
    SSDLITE_SIZE,
    pyramid,
    ssd_anchors,
)
from engines.detectors.own import read_own
from engines.detectors.signature import (
    COCO80,
    COCO91,
    FAMILY,
    NO_CLASS,
    Colour,
    Layout,
    Signature,
    Triple,
    axis,
    cells,
)
from engines.errors import ModelError
from engines.feed import PLANES, read_feed

_STRIDES = (8, 16, 32)
_MOST_QUERIES = 1000
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MEAN_COLOUR = (124, 116, 104)
_SSD_MEAN, _SSD_STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a network before its family is."""

    image: TensorSpec
    outputs: tuple[TensorSpec, ...]
    """Those of boxes (last axis 4) first."""
    operators: Collection[str] | None
    """Kinds of operators in the graph; None if nobody read it."""


Places = Callable[[Seen], "int | None"]
"""How many classes the outputs have places for; 0 if they don't say, None if they don't fit."""


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of detector."""

    name: str
    layout: Layout
    looks: str
    """Its inputs and outputs, in words."""
    places: Places
    colour: Colour = "rgb"
    scale: float = 1.0
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    letterbox: bool = True
    padding: tuple[int, int, int] = (114, 114, 114)
    objectness: bool = False
    softmax: bool = False
    background: bool = False
    """The first class is none."""
    compiles: bool = True
    """TensorRT takes it; two-stage graphs run on OpenVINO and ONNX Runtime only."""


# ---------------------------------------------------------------------------- how families look


def _rows(seen: Seen, shapes: int, before: int) -> int | None:
    """(N, shapes * cells, before + classes)."""
    if len(seen.outputs) != 1 or len(seen.outputs[0].shape) != 3:
        return None
    _, rows, columns = seen.outputs[0].shape
    wanted = shapes * cells(axis(seen.image, 3), axis(seen.image, 2), _STRIDES)
    fits = rows == wanted and columns is not None and columns > before
    return columns - before if fits and columns is not None else None


def _yolox(seen: Seen) -> int | None:
    undecoded = seen.operators is None or "Exp" not in seen.operators
    return _rows(seen, 1, 5) if undecoded else None


def _yolox_decoded(seen: Seen) -> int | None:
    decoded = seen.operators is None or "Exp" in seen.operators
    return _rows(seen, 1, 5) if decoded else None


def _yolov5(seen: Seen) -> int | None:
    return _rows(seen, 3, 5)


def _yolov8(seen: Seen) -> int | None:
    if len(seen.outputs) != 1 or len(seen.outputs[0].shape) != 3:
        return None
    _, depth, columns = seen.outputs[0].shape
    fits = columns == cells(axis(seen.image, 3), axis(seen.image, 2), _STRIDES)
    return depth - 4 if fits and depth is not None and depth > 4 else None


def _fastestdet(seen: Seen) -> int | None:
    if len(seen.outputs) != 1 or len(seen.outputs[0].shape) != 4:
        return None
    _, depth, height, width = seen.outputs[0].shape
    fits = (height, width) == (axis(seen.image, 2) // 16, axis(seen.image, 3) // 16)
    return depth - 5 if fits and depth is not None and depth > 5 else None


def _anchored(seen: Seen, anchors: int, outputs: int = 2) -> int | None:
    """(N, anchors, 4), (N, anchors, classes) and for FCOS (N, anchors, 1)."""
    shapes = [spec.shape for spec in seen.outputs]
    if len(shapes) != outputs or any(len(shape) != 3 for shape in shapes):
        return None
    fits = all(shape[1] == anchors for shape in shapes) and shapes[0][2] == 4
    return shapes[1][2] if fits and (outputs == 2 or shapes[2][2] == 1) else None


def _ssd(size: int) -> Places:
    def places(seen: Seen) -> int | None:
        if seen.image.shape[2:] != (size, size):
            return None
        return _anchored(seen, len(ssd_anchors(size)))

    return places


def _pyramid_cells(seen: Seen) -> int:
    return sum(x * y for x, y in pyramid(axis(seen.image, 3), axis(seen.image, 2)))


def _retinanet(seen: Seen) -> int | None:
    return _anchored(seen, RETINA_SHAPES * _pyramid_cells(seen))


def _fcos(seen: Seen) -> int | None:
    return _anchored(seen, _pyramid_cells(seen), outputs=3)


def _queries(seen: Seen) -> int | None:
    queries = seen.outputs[0].shape[1] if len(seen.outputs[0].shape) == 3 else None
    return _anchored(seen, queries) if queries and queries <= _MOST_QUERIES else None


def _detr(seen: Seen) -> int | None:
    places = _queries(seen)
    return None if places in (None, len(COCO80), len(COCO91)) else places


def _rtdetr(seen: Seen) -> int | None:
    places = _queries(seen)
    return None if places in (None, len(COCO91) + 1) else places


def _two_stage(seen: Seen, masks: bool) -> int | None:
    ranks = (3, 2, 2, 4) if masks else (3, 2, 2)
    if tuple(len(spec.shape) for spec in seen.outputs) != ranks or seen.image.shape[0] != 1:
        return None
    boxes, _, labels = seen.outputs[:3]
    return 0 if boxes.shape[2] == 4 and labels.dtype.kind == "i" else None


def _faster_rcnn(seen: Seen) -> int | None:
    return _two_stage(seen, masks=False)


def _mask_rcnn(seen: Seen) -> int | None:
    return _two_stage(seen, masks=True)


def _torchvision(
    name: str, layout: Layout, looks: str, places: Places, *, compiles: bool = True
) -> Family:
    """A torchvision detector that keeps the aspect and wants ImageNet's normalisation."""
    return Family(
        name,
        layout,
        looks,
        places,
        scale=1 / 255,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        padding=_MEAN_COLOUR,
        background=True,
        compiles=compiles,
    )


_PYRAMID = "the cells of strides 8 to 128"
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "yolox", "anchorfree",
            "YOLOX as published: 1xNx(5+classes), not decoded, N the cells of strides 8, 16, 32",
            _yolox, colour="bgr", objectness=True,
        ),
        Family(
            "yolox-decoded", "yolov5", "the same, decoded (the graph has an Exp)", _yolox_decoded,
            colour="bgr",
        ),
        Family(
            "yolov5", "yolov5", "1x3Nx(5+classes), decoded; YOLOv7 too", _yolov5, scale=1 / 255
        ),
        Family("yolov8", "yolov8", "1x(4+classes)xN, decoded; YOLO11 too", _yolov8, scale=1 / 255),
        Family(
            "fastestdet", "fastestdet", "1x(5+classes)xH/16xW/16", _fastestdet, colour="bgr",
            scale=1 / 255, letterbox=False,
        ),
        Family(
            "ssdlite320", "ssd", "1x3234x4 and 1x3234xclasses, 320x320", _ssd(SSDLITE_SIZE),
            scale=1 / 255, mean=_HALF, std=_HALF, letterbox=False, background=True,
        ),
        Family(
            "ssd300", "ssd", "1x8732x4 and 1x8732xclasses, 300x300", _ssd(SSD_SIZE),
            scale=1 / 255, mean=_SSD_MEAN, std=_SSD_STD, letterbox=False, background=True,
        ),
        _torchvision(
            "retinanet", "retinanet", f"1x9Nx4 and 1x9Nxclasses, N {_PYRAMID}", _retinanet
        ),
        _torchvision("fcos", "fcos", f"1xNx4, 1xNxclasses, 1xNx1, N {_PYRAMID}", _fcos),
        Family(
            "detr", "detr", "1xQx4 and 1xQx(classes+1), the last for no object", _detr,
            scale=1 / 255, mean=_IMAGENET_MEAN, std=_IMAGENET_STD, letterbox=False, softmax=True,
        ),
        Family(
            "rtdetr", "detr", "1xQx4 and 1xQxclasses, each for itself", _rtdetr, scale=1 / 255,
            letterbox=False,
        ),
        _torchvision(
            "fasterrcnn", "boxes", "boxes 1xnx4, scores 1xn, labels 1xn", _faster_rcnn,
            compiles=False,
        ),
        _torchvision(
            "maskrcnn", "boxes", "the same and masks 1xnxhxw", _mask_rcnn, compiles=False
        ),
    )
}  # fmt: skip
"""All public families that are known; this project's own detectors say what they are."""


# ------------------------------------------------------------------------------- recognition


def recognise(engine: Engine, where: str, *, operators: Collection[str] | None = None) -> Signature:
    """Find the one known kind of detector that an engine is.

    Args:
        engine: its inputs, outputs and metadata are read. Metadata "family" names one of FAMILIES
            and settles what would be ambiguous; "classes" names the classes, with commas between.
        where: name of the network, for errors.
        operators: of its graph, if they were read.

    Raises:
        ModelError: it is none of the known, or more than one; the text lists them.
    """
    metadata = engine.metadata
    image = _image(engine, where)
    if metadata.get("family") == FAMILY and len(engine.outputs) == 1:
        return read_own(metadata, image, engine.outputs[0], where)
    ordered = sorted(engine.outputs, key=lambda spec: len(spec.shape) != 3 or spec.shape[-1] != 4)
    seen = Seen(image, tuple(ordered), operators)
    named = metadata.get("family")
    considered = [FAMILIES[named]] if named in FAMILIES else list(FAMILIES.values())
    fitting = [
        (family, places) for family in considered if (places := family.places(seen)) is not None
    ]
    if len(fitting) == 1:
        return _signature(*fitting[0], seen, metadata, where)
    text = "; ".join(map(str, (*engine.inputs, *engine.outputs)))
    if fitting:
        candidates = [family.name for family, _ in fitting]
        raise ModelError(
            f"{where}: network could be {' or '.join(candidates)}, got {text}; say which with "
            f"streamer engines add {where} --family {candidates[0]}"
        )
    known = "; ".join(f"{family.name} ({family.looks})" for family in considered)
    raise ModelError(
        f"{where}: network must be a known detector, got {text}; known are: one of this project "
        f"(metadata family={FAMILY}); {known}"
    )


def _image(engine: Engine, where: str) -> TensorSpec:
    """The picture that goes into the network itself."""
    feed = read_feed(engine.metadata, where)
    if feed is not None and feed.layout == "planes":
        first = next(spec for spec in engine.inputs if spec.name == PLANES[0])
        shape = (first.shape[0], 3, feed.net_height, feed.net_width)
        return TensorSpec("feed", shape, np.dtype("uint8"))
    text = ", ".join(map(str, engine.inputs))
    if len(engine.inputs) != 1 or len(engine.inputs[0].shape) != 4:
        raise ModelError(
            f"{where}: a known detector has one input, a batch of pictures, got {text}; export the "
            "network without others"
        )
    image = engine.inputs[0]
    if image.shape[1] != 3 or image.dtype.kind not in "fu":
        raise ModelError(
            f"{where}: a known detector has pictures ?x3xHxW of floats or uint8, got {text}; "
            "export it channels first"
        )
    if None in image.shape[2:]:
        raise ModelError(
            f"{where}: height and width must be fixed, got {text}; export the network with one "
            "picture size (only the batch may be free)"
        )
    return image


def _signature(
    family: Family, places: int, seen: Seen, metadata: Mapping[str, str], where: str
) -> Signature:
    signature = Signature(
        family.name,
        family.layout,
        seen.image,
        seen.outputs[0],
        _classes(family, places, metadata, where),
        family.colour,
        scale=family.scale,
        letterbox=family.letterbox,
        strides=_STRIDES if family.layout == "anchorfree" else (),
        objectness=family.objectness,
        others=seen.outputs[1:],
        mean=family.mean,
        std=family.std,
        padding=family.padding,
        softmax=family.softmax,
    )
    if seen.image.dtype == np.uint8:  # the graph normalises
        signature = replace(signature, scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return signature


def _classes(
    family: Family, places: int, metadata: Mapping[str, str], where: str
) -> tuple[str, ...]:
    """Names of the classes, one for each place that can be an object."""
    objects = places - family.softmax
    named = _named(metadata, where)
    if named and family.background and len(named) == objects - 1:
        return (NO_CLASS, *named)
    if named and objects in (len(named), 0):
        return named
    if named:
        raise ModelError(
            f"{where}: there must be {objects - family.background} names of classes, as the "
            f"outputs say, got {len(named)}; list each on a line of its own, in the network's order"
        )
    if objects in (len(COCO91), 0):
        return COCO91
    if objects == len(COCO80):
        return COCO80
    raise ModelError(
        f"{where}: network has {objects} classes and no names for them; give one a line: "
        f"streamer engines add {where} --classes NAMES.txt"
    )


def _named(metadata: Mapping[str, str], where: str) -> tuple[str, ...] | None:
    if "classes" in metadata:
        return tuple(metadata["classes"].split(","))
    if "names" not in metadata:
        return None
    try:  # as exporters of the YOLO families write them: {0: 'person', 1: 'car'}
        names = ast.literal_eval(metadata["names"])
        listed = [names[n] for n in range(len(names))]
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ModelError(
            f"{where}: metadata names must list the classes, got {metadata['names'][:80]!r}; give "
            "them with streamer engines add --classes NAMES.txt"
        ) from error
    return tuple(str(name) for name in listed)
