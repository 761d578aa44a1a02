"""Put scaling, colour conversion and normalisation of frames in front of an ONNX network; offline.

    python -m engines.feed_graph DETECTOR OUT.onnx --size 1280x720 [--layout bgr] [--matrix bt709]

The engine then takes a slot's planes as they are. Its operators are ones that every release of
TensorRT takes. Bilinear, as OpenCV's, but without its roundings to whole numbers in between.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.detectors.runtime import Detector
from engines.detectors.signature import Signature
from engines.errors import EngineError, ModelError
from engines.feed import METADATA_KEY, PICTURE, PLANES, Feed, Layout, Matrix
from engines.zoo import find_model

F64 = NDArray[np.float64]

_PREFIX = "feed"
_OLDEST_OPSET = 11  # Resize and Pad take what they need as inputs since


def feed_for(
    signature: Signature,
    width: int,
    height: int,
    *,
    layout: Layout = "planes",
    matrix: Matrix = "bt601",
) -> Feed:
    """Say what a detector needs of frames of width x height pixels; as fill_input makes it."""
    scale, mean, std = (np.array(n) for n in (signature.scale, signature.mean, signature.std))
    padding = signature.padding
    return Feed(
        width=width,
        height=height,
        layout=layout,
        net_width=signature.width,
        net_height=signature.height,
        colour=signature.colour,
        letterbox=signature.letterbox,
        enlarge=signature.enlarge,
        scale=_triple(scale / std),
        offset=_triple(-mean / std),
        padding=(padding[0], 128, 128) if signature.colour == "yuv" else padding,
        matrix=matrix,
    )


def add_feed(model: bytes, feed: Feed, where: str) -> bytes:
    """Rewrite a network so that it takes frames.

    Args:
        model: content of an ONNX file with one input (N, 3, net_height, net_width), float32, or
            uint8 that is cast to float first.
        feed: size of the frames and what the network wants.
        where: its name, for errors.

    Raises:
        ModelError: the network's input is not of that kind.
    """
    proto = onnx.load_from_string(model)
    opset = max((entry.version for entry in proto.opset_import if not entry.domain), default=0)
    if opset < _OLDEST_OPSET:
        raise ModelError(
            f"{where}: opset must be at least {_OLDEST_OPSET}, got {opset}; export the network at "
            "opset 17"
        )
    graph = proto.graph
    image = _image_input(graph, feed, where)
    nodes = _Nodes(feed, opset)
    last = nodes.build()
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == image.name:
                node.input[index] = last
    batch = image.type.tensor_type.shape.dim[0]
    axis = batch.dim_value if batch.HasField("dim_value") else "batch"
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes.nodes, *old])
    graph.initializer.extend(nodes.constants)
    kept = [value for value in graph.input if value.name != image.name]
    del graph.input[:]
    graph.input.extend([*_inputs(feed, axis), *kept])
    del graph.value_info[:]
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    properties.pop("picture_step", None)
    helper.set_model_props(proto, properties | {METADATA_KEY: feed.to_metadata()})
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _triple(values: F64) -> tuple[float, float, float]:
    first, second, third = (float(n) for n in values)
    return first, second, third


def _image_input(graph: onnx.GraphProto, feed: Feed, where: str) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    types = (TensorProto.FLOAT, TensorProto.UINT8)
    if len(inputs) == 1 and inputs[0].type.tensor_type.elem_type in types:
        lengths = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
        if lengths[1:] == [3, feed.net_height, feed.net_width]:
            return inputs[0]
    seen = ", ".join(
        f"{v.name} {[d.dim_value or '?' for d in v.type.tensor_type.shape.dim]}" for v in inputs
    )
    raise ModelError(
        f"{where}: network must have one input ?x3x{feed.net_height}x{feed.net_width} of float32 "
        f"or uint8, got {seen}; give the size that it was exported with"
    )


def _inputs(feed: Feed, batch: int | str) -> list[onnx.ValueInfoProto]:
    def make(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, *shape])

    if feed.layout == "bgr":
        return [make(PICTURE, (feed.height, feed.width, 3))]
    return [make(name, size) for name, size in zip(PLANES, feed.plane_sizes, strict=True)]


class _Nodes:
    """The nodes in front of a network, in order."""

    def __init__(self, feed: Feed, opset: int) -> None:
        self.feed = feed
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._no_roi = ""  # may be left out since opset 13
        if opset < 13:
            self._no_roi = self._constant("roi", np.empty(0, np.float32))

    def build(self) -> str:
        """Make all nodes; gives the name of the network's picture, float32."""
        picture = self._picture() if self.feed.layout == "bgr" else self._planes()
        change = _colour_change(self.feed)
        if change is not None:
            picture = self._recoloured(picture, *change)
        scale, offset = (np.array(n, np.float32) for n in (self.feed.scale, self.feed.offset))
        width, height = self.feed.fitted
        below, right = self.feed.net_height - height, self.feed.net_width - width
        if below or right:
            # Pad has one value for all channels, so theirs are subtracted before it.
            grey = np.array(self.feed.padding, np.float32)
            picture = self._add("Sub", [picture, self._channels("grey", grey)])
            ends = self._constant("ends", np.array([0, 0, 0, 0, 0, 0, below, right]))
            picture = self._add("Pad", [picture, ends])
            offset = offset + grey * scale
        if (scale != 1).any():
            picture = self._add("Mul", [picture, self._channels("scale", scale)])
        if offset.any():
            picture = self._add("Add", [picture, self._channels("offset", offset)])
        return picture

    def _planes(self) -> str:
        channels = []
        for name, (rows, columns) in zip(PLANES, self.feed.plane_sizes, strict=True):
            plane = self._add("Cast", [name], to=TensorProto.FLOAT)
            shape = self._constant("shape", np.array([0, 1, rows, columns]))  # 0 keeps the batch
            plane = self._add("Reshape", [plane, shape])
            channels.append(self._resized(plane, rows, columns))
        return self._add("Concat", channels, axis=1)

    def _picture(self) -> str:
        picture = self._add("Cast", [PICTURE], to=TensorProto.FLOAT)
        picture = self._add("Transpose", [picture], perm=[0, 3, 1, 2])
        return self._resized(picture, self.feed.height, self.feed.width)

    def _resized(self, name: str, rows: int, columns: int) -> str:
        width, height = self.feed.fitted
        if (rows, columns) == (height, width):
            return name
        scales = np.array([1, 1, _ratio(rows, height), _ratio(columns, width)], np.float32)
        inputs = [name, self._no_roi, self._constant("scales", scales)]
        return self._add(
            "Resize", inputs, mode="linear", coordinate_transformation_mode="half_pixel"
        )

    def _recoloured(self, name: str, matrix: F64, bias: F64) -> str:
        weights = self._constant("matrix", matrix.astype(np.float32)[:, :, None, None])
        name = self._add("Conv", [name, weights, self._constant("bias", bias.astype(np.float32))])
        limits = [self._constant(end, np.float32(n)) for end, n in (("black", 0), ("white", 255))]
        return self._add("Clip", [name, *limits])

    def _channels(self, name: str, values: NDArray[np.float32]) -> str:
        return self._constant(name, values.reshape(1, 3, 1, 1))

    def _constant(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        name = f"{_PREFIX}/{name}{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _add(
        self, operator: str, inputs: Sequence[str], **attributes: int | str | list[int]
    ) -> str:
        output = f"{_PREFIX}/{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output


def _ratio(source: int, target: int) -> np.float32:
    """Smallest factor that gives the target length, which Resize rounds down to."""
    ratio: np.float32 = np.float32(target / source)
    while float(ratio) * source < target:
        ratio = np.nextafter(ratio, np.float32(2) * ratio)
    return ratio


def _colour_change(feed: Feed) -> tuple[F64, F64] | None:
    """Matrix (3, 3) and bias (3,) from the frame's channels to the network's, if they differ."""
    source = "yuv" if feed.layout == "planes" else "bgr"
    if source == feed.colour:
        return None
    reverse: F64 = np.eye(3)[::-1]
    to_yuv, black = _rgb_to_yuv(*_LUMA_WEIGHTS[feed.matrix])
    if source == "yuv":
        to_rgb = np.linalg.inv(to_yuv).astype(np.float64)
        to_net = to_rgb if feed.colour == "rgb" else reverse @ to_rgb
        return to_net, -to_net @ black
    if feed.colour == "yuv":
        return to_yuv @ reverse, black
    return reverse, np.zeros(3)


def _rgb_to_yuv(red: float, blue: float) -> tuple[F64, F64]:
    """Matrix and black point of limited-range YUV with these weights of red and blue in luma."""
    luma = np.array([red, 1 - red - blue, blue])
    from_blue = (np.array([0, 0, 1]) - luma) / (1 - blue)
    from_red = (np.array([1, 0, 0]) - luma) / (1 - red)
    matrix: F64 = np.stack([luma * 219, from_blue * 112, from_red * 112]) / 255
    return matrix, np.array([16.0, 128.0, 128.0])


_LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


def main(argv: Sequence[str] | None = None) -> None:
    """Rewrite a detector from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("detector", help="name of a shipped one, or an ONNX file")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", required=True, help="of the frames, as in 1280x720")
    parser.add_argument("--layout", default="planes", choices=get_args(Layout))
    parser.add_argument("--matrix", default="bt601", choices=get_args(Matrix))
    options = parser.parse_args(argv)
    size = re.fullmatch(r"(\d+)x(\d+)", options.size)
    if size is None:
        parser.error(f"--size must be WIDTHxHEIGHT, got {options.size!r}")
    try:
        detector = Detector.load(options.detector, device="onnxruntime:cpu")
        detector.close()
        width, height = int(size[1]), int(size[2])
        feed = feed_for(
            detector.signature, width, height, layout=options.layout, matrix=options.matrix
        )
        path = find_model(options.detector)
        options.out.write_bytes(add_feed(path.read_bytes(), feed, str(path)))
    except (EngineError, OSError, ValueError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{options.out}: takes {options.layout} of {width}x{height} pixels\n")


if __name__ == "__main__":
    main()
