"""Let the graphs of one model folder share their weights in one file; offline.

An encoder holds most of what a decoder holds, and inter frames most of what intra frames need.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from engines.codec.model import WEIGHTS_FILE

_ALIGNMENT = 64
_SMALLEST_BYTES = 512
"""Smaller tensors stay in their graphs."""


def share_weights(folder: Path) -> None:
    """Move the weights of all graphs of a folder to weights.bin, equal ones once."""
    stored = bytearray()
    places: dict[bytes, int] = {}
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(str(path))
        for tensor in model.graph.initializer:
            raw = numpy_helper.to_array(tensor).tobytes()
            if len(raw) < _SMALLEST_BYTES:
                continue
            key = hashlib.sha256(raw).digest()
            if key not in places:
                stored += bytes(-len(stored) % _ALIGNMENT)
                places[key] = len(stored)
                stored += raw
            _refer(tensor, places[key], len(raw))
        path.write_bytes(model.SerializeToString())
    (folder / WEIGHTS_FILE).write_bytes(stored)
    for path in sorted(folder.glob("*.onnx")):
        onnx.checker.check_model(str(path))


def _refer(tensor: TensorProto, offset: int, length: int) -> None:
    """Let a tensor say where its bytes are, in place of having them."""
    shape, kind, name = list(tensor.dims), tensor.data_type, tensor.name
    tensor.Clear()
    tensor.dims.extend(shape)
    tensor.data_type, tensor.name = kind, name
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
