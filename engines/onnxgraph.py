"""Read what an ONNX network consists of, without any library: operators, element types, shapes.

Enough to say before a compiler is asked whether it can take the network, and why not. Weights are
not read. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from engines.base import TensorSpec
from engines.errors import ModelError
from engines.onnxfile import fields, varint

# Field numbers of the messages of onnx.proto.
_GRAPH, _OPSET_IMPORT = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR, _ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _INTEGER, _TENSOR, _SUBGRAPH, _SUBGRAPHS = 1, 3, 5, 6, 11
_TENSOR_TYPE, _INT32_DATA, _TENSOR_NAME, _RAW_DATA, _DATA_LOCATION = 2, 5, 8, 9, 14
_VALUE_NAME, _VALUE_TYPE = 1, 2
_OF_TENSOR, _ELEMENT, _SHAPE, _LENGTH = 1, 1, 2, 1

_ELEMENT_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8e4m3fn",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
}
_QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_OF_NUMPY = tuple(_ELEMENT_TYPES[n] for n in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13))
_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a network consists of."""

    opset: int
    inputs: tuple[TensorSpec, ...]
    """Weights that old files list as inputs are left out."""
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, str]
    """Each kind of operator, with its domain where that is not ONNX's own, and one output of it."""
    element_types: frozenset[str]
    """Of inputs, outputs, weights, constants and casts, as ONNX names them."""
    readers: dict[str, frozenset[str]]
    """For each input the kinds of operators that read it."""
    external_data: bool
    """Weights lie in other files."""
    zero_points: bool = False
    """Some Q/DQ node has a zero point that is unsigned or not zero."""

    @property
    def quantised(self) -> bool:
        """It has Q/DQ nodes."""
        return bool(self.operators.keys() & _QUANTISING)

    @property
    def precision(self) -> str:
        """What its types say: int8, bf16, fp16 or fp32."""
        if self.quantised:
            return "int8"
        for element, name in (("bfloat16", "bf16"), ("float16", "fp16")):
            if element in self.element_types:
                return name
        return "fp32"


@dataclass
class _Reading:
    """What has been seen so far, subgraphs included."""

    operators: dict[str, str] = field(default_factory=dict)
    element_types: set[str] = field(default_factory=set)
    readers: dict[str, set[str]] = field(default_factory=dict)
    weights: dict[str, bool] = field(default_factory=dict)
    """Weights and constants; True for those that are signed and zero all through."""
    zero_points: set[str] = field(default_factory=set)
    external_data: bool = False


def read_graph(model: bytes, where: str) -> GraphFacts:
    """Walk an ONNX model.

    Args:
        model: content of an ONNX file.
        where: its name, for errors.

    Raises:
        ModelError: it is cut short, has no graph, or has inputs and outputs that numpy can't hold.
    """
    reading = _Reading()
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    opset = 0
    try:
        for number, content in fields(memoryview(model)):
            if number == _OPSET_IMPORT:
                entry = dict(fields(content))
                if _text(entry.get(_OPSET_DOMAIN)) in _STANDARD_DOMAINS:
                    opset = _number(entry.get(_OPSET_VERSION))
            elif number == _GRAPH:
                _read_graph(content, reading)
                inputs += [_spec(value) for at, value in fields(content) if at == _INPUT]
                outputs += [_spec(value) for at, value in fields(content) if at == _OUTPUT]
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    except (IndexError, KeyError, ValueError) as error:
        raise ModelError(
            f"{where}: file must be a whole ONNX model of tensors, got {len(model)} bytes that "
            f"end or go wrong in mid-field ({error}); download or export it again"
        ) from error
    if not (opset and inputs and outputs):
        raise ModelError(
            f"{where}: file must be an ONNX model with inputs and outputs, got opset {opset}, "
            f"{len(inputs)} inputs and {len(outputs)} outputs; export the network again"
        )
    inputs = [spec for spec in inputs if spec.name not in reading.weights]
    types = {spec.dtype.name for spec in (*inputs, *outputs)}
    return GraphFacts(
        opset,
        tuple(inputs),
        tuple(outputs),
        reading.operators,
        frozenset(reading.element_types | types),
        {spec.name: frozenset(reading.readers.get(spec.name, ())) for spec in inputs},
        reading.external_data,
        not all(reading.weights.get(name, False) for name in reading.zero_points),
    )


def _read_graph(graph: memoryview, reading: _Reading) -> None:
    for number, content in fields(graph):
        if number == _NODE:
            _read_node(content, reading)
        elif number == _INITIALIZER:
            _read_tensor(content, reading)


def _read_node(node: memoryview, reading: _Reading) -> None:
    entries = list(fields(node))
    single = dict(entries)
    operator, domain = _text(single.get(_OPERATOR)), _text(single.get(_NODE_DOMAIN))
    if domain not in _STANDARD_DOMAINS:
        operator = f"{domain}.{operator}"
    outputs = [_text(content) for number, content in entries if number == _NODE_OUTPUT]
    reading.operators.setdefault(operator, next(iter(outputs), ""))
    inputs = [_text(content) for number, content in entries if number == _NODE_INPUT]
    for name in inputs:
        reading.readers.setdefault(name, set()).add(operator)
    if operator in _QUANTISING:
        reading.zero_points.update(inputs[2:3])
    for number, content in entries:
        if number == _ATTRIBUTE:
            _read_attribute(content, reading, operator, "".join(outputs[:1]))


def _read_attribute(attribute: memoryview, reading: _Reading, operator: str, output: str) -> None:
    entries = list(fields(attribute))
    named_to = any(n == _ATTRIBUTE_NAME and _text(content) == "to" for n, content in entries)
    for number, content in entries:
        if number in (_SUBGRAPH, _SUBGRAPHS):
            _read_graph(content, reading)
        elif number == _TENSOR:
            _read_tensor(content, reading, output)
        elif number == _INTEGER and operator == "Cast" and named_to:
            reading.element_types.add(_element(_number(content)))


def _read_tensor(tensor: memoryview, reading: _Reading, name: str = "") -> None:
    """Read the type of a weight, or of a constant that is known by its node's output."""
    entry = dict(fields(tensor))
    element = _element(_number(entry.get(_TENSOR_TYPE)))
    reading.element_types.add(element)
    reading.external_data |= bool(_number(entry.get(_DATA_LOCATION)))
    stored = (entry.get(_RAW_DATA, b""), entry.get(_INT32_DATA, b""))
    is_zero = element == "int8" and not any(bytes(data).strip(b"\0") for data in stored)
    reading.weights[name or _text(entry.get(_TENSOR_NAME))] = is_zero


def _spec(value: memoryview) -> TensorSpec:
    """Read one ValueInfoProto."""
    entry = dict(fields(value))
    tensor = dict(fields(dict(fields(entry[_VALUE_TYPE]))[_OF_TENSOR]))
    shape = tuple(_lengths(tensor.get(_SHAPE, memoryview(b""))))
    name, element = _text(entry.get(_VALUE_NAME)), _element(_number(tensor.get(_ELEMENT)))
    if element not in _OF_NUMPY:
        raise ModelError(
            f"{name}: inputs and outputs must be of {', '.join(_OF_NUMPY)}, got {element}; "
            "cast them inside the graph"
        )
    return TensorSpec(name, shape, np.dtype(element))


def _lengths(shape: memoryview) -> Iterator[int | None]:
    for _, dimension in fields(shape):
        entry = dict(fields(dimension))
        yield _number(entry[_LENGTH]) if _LENGTH in entry else None


def _element(number: int) -> str:
    return _ELEMENT_TYPES.get(number, f"type {number}")


def _text(content: memoryview | None) -> str:
    return str(content or b"", "utf-8")


def _number(content: memoryview | None) -> int:
    return varint(content)[0] if content else 0
