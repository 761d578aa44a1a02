"""Read what an ONNX file says about itself, without any library: is it whole, and its metadata.

An ONNX file is one protobuf message; only its outermost fields are walked, so that the cost does
not grow with the network. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engines.errors import ModelError

_IR_VERSION, _GRAPH, _METADATA = 1, 7, 14  # field numbers in ModelProto
_KEY, _VALUE = 1, 2  # field numbers in StringStringEntryProto
_ENGINES = (b"ftrt", b"ptrt", b"streamer engine")  # how TensorRT's files and our own cache's begin
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def read_metadata(path: str | Path) -> dict[str, str]:
    """Check that a file is a whole ONNX model and read its metadata_props.

    Raises:
        ModelError: there is no such file, it is no ONNX model, or it is cut short.
    """
    path = Path(path)
    try:
        model = memoryview(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{path}: model file must be readable, got {error.strerror}; check the path"
        ) from error
    if bytes(model[:16]).startswith(_ENGINES):
        raise ModelError(
            f"{path}: file must be an ONNX model, got an engine of TensorRT, which runs only where "
            "it was built; give the ONNX file, and an engine is built for this machine"
        )
    seen: set[int] = set()
    metadata: dict[str, str] = {}
    try:
        for field, content in fields(model):
            seen.add(field)
            if field == _METADATA:
                entry = dict(fields(content))
                metadata[str(entry.get(_KEY, b""), "utf-8")] = str(entry.get(_VALUE, b""), "utf-8")
    except (IndexError, ValueError) as error:
        kind = "a whole ONNX model" if _IR_VERSION in seen else "an ONNX model"
        raise ModelError(
            f"{path}: file must be {kind}, got {len(model)} bytes that end or go wrong in "
            "mid-field; download or export it again"
        ) from error
    if not {_IR_VERSION, _GRAPH} <= seen:
        raise ModelError(
            f"{path}: file must be an ONNX model, got {len(model)} bytes without a graph; "
            "export the network to ONNX first"
        )
    return metadata


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (field number, content) of one protobuf message; numbers come as their raw bytes.

    Raises:
        IndexError, ValueError: the message ends or goes wrong in mid-field.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        wire = tag & 7
        if wire == _BYTES:
            size, start = varint(message, at)
        elif wire == _VARINT:
            size, start = varint(message, at)[1] - at, at
        elif wire in (_FIXED32, _FIXED64):
            size, start = (4 if wire == _FIXED32 else 8), at
        else:
            raise ValueError(f"wire type {wire}")
        at = start + size
        if at > len(message) or tag >> 3 == 0:
            raise ValueError(f"field {tag >> 3} ends at {at} of {len(message)}")
        yield tag >> 3, message[start:at]


def varint(message: memoryview, at: int = 0) -> tuple[int, int]:
    """Read the number that begins at a place, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint longer than ten bytes")
