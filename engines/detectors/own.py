"""Read what one of this project's own detectors says of itself in its metadata."""

from __future__ import annotations

from collections.abc import Mapping

from engines.base import TensorSpec
from engines.detectors.signature import FAMILY, Colour, Signature, axis, cells
from engines.errors import ModelError

_COLOURS: dict[str, Colour] = {"bgr": "bgr", "rgb": "rgb", "yuv": "yuv"}


def read_own(
    metadata: Mapping[str, str], image: TensorSpec, output: TensorSpec, where: str
) -> Signature:
    """Make the signature that the metadata describes.

    Raises:
        ModelError: it is not all there, or the output is not as it says.
    """
    try:
        classes = tuple(metadata["classes"].split(","))
        strides = tuple(int(s) for s in metadata["strides"].split(","))
        colour = _COLOURS[metadata["colour"]]
        scale = float(metadata["scale"])
        letterbox = metadata["letterbox"] == "1"
        enlarge = metadata.get("enlarge", "1") == "1"
        objectness = metadata["objectness"] == "1"
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{where}: metadata of a detector must give classes, strides, colour, scale, letterbox "
            f"and objectness, got {dict(metadata)}; export it again"
        ) from error
    rows = (cells(axis(image, 3), axis(image, 2), strides), 4 + objectness + len(classes))
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
        enlarge=enlarge,
        strides=strides,
        objectness=objectness,
    )
