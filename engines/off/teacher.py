"""Write down what a public detector's backbone sees in packed pictures, for pretraining; offline.

    python -m engines.off.teacher TEACHER.onnx OUT PACK... --every 2

OUT gets pictures.npy (the pictures), pairs.npy (index of a picture and of the one a step later,
itself where there is none) and maps8.npy, maps16.npy and maps32.npy: the teacher's maps, averaged
to the student's strides, of each picture and of its mirror image, in fp16.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.utils import Extractor

from engines.base import Engine
from engines.load import load_engine
from engines.off.shards import Pack

STRIDES = (8, 16, 32)
TAPS = ("input.175", "input.283", "input.367")
"""Names in yolox_nano_416_coco.onnx of the maps that its neck is fed with."""

_ENLARGED = 1.3  # 320 -> 416: the teacher sees more than the student
_CELL = 32


def cut(teacher: Path, width: int, height: int) -> Engine:
    """Load the backbone of the teacher alone, for pictures of this size."""
    model = onnx.load(teacher)
    del model.graph.value_info[:]
    for dim, length in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1, 3, height, width), strict=True
    ):
        dim.dim_value = length
    name = model.graph.input[0].name
    inferred = onnx.shape_inference.infer_shapes(_only(model, name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        onnx.save(inferred, path)
        return load_engine(path, device="cpu")


def _only(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    missing = set(TAPS) - {output for node in model.graph.node for output in node.output}
    if missing:
        raise SystemExit(
            f"teacher must have the maps {', '.join(TAPS)}, lacks {', '.join(sorted(missing))}; "
            "give yolox_nano_416_coco.onnx"
        )
    for tap in TAPS:
        model.graph.value_info.append(
            onnx.helper.make_tensor_value_info(tap, onnx.TensorProto.FLOAT, None)
        )
    part: onnx.ModelProto = Extractor(model).extract_model([name], list(TAPS))
    return part


def looked_at(engine: Engine, picture: NDArray[np.uint8]) -> list[NDArray[np.float16]]:
    """Show a picture (3, h, w) to the teacher; gives one map (C, h/stride, w/stride) a stride."""
    spec = engine.inputs[0]
    _, _, height, width = (int(n or 0) for n in spec.shape)
    bgr = _bgr(picture)
    large = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(large.transpose(2, 0, 1)[None], np.float32)
    outputs = engine.infer({spec.name: image})
    maps = []
    for tap, stride in zip(TAPS, STRIDES, strict=True):
        size = (picture.shape[2] // stride, picture.shape[1] // stride)
        channels = [cv2.resize(c, size, interpolation=cv2.INTER_AREA) for c in outputs[tap][0]]
        maps.append(np.stack(channels).astype(np.float16))
    return maps


def _bgr(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    y, u, v = (plane.astype(np.float32) for plane in picture)
    luma, blue, red = (y - 16) * 1.164, u - 128, v - 128
    bgr = [luma + 2.017 * blue, luma - 0.813 * red - 0.392 * blue, luma + 1.596 * red]
    return np.asarray(np.clip(np.stack(bgr, -1), 0, 255), np.uint8)


def pairs_of(pack: Pack, every: int, step: int) -> list[tuple[int, int]]:
    """Choose each n-th picture of each clip, with the picture `step` later where there is one."""
    chosen = []
    for clip in range(len(pack)):
        begin, end = pack.span(clip)
        for first in range(begin, end, every):
            chosen.append((first, first + step if first + step < end else first))
    return chosen


def main(argv: Sequence[str] | None = None) -> None:
    """Look at all packs; each must have pictures of the same size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("packs", type=Path, nargs="+")
    parser.add_argument("--size", default="320x192", help="of the student's input")
    parser.add_argument("--every", type=int, default=4, help="of each clip's pictures")
    parser.add_argument("--step", type=int, default=2, help="pictures from one to its second")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    width, height = (int(n) for n in options.size.split("x"))
    engine = cut(
        options.teacher,
        int(width * _ENLARGED / _CELL + 0.5) * _CELL,
        int(height * _ENLARGED / _CELL + 0.5) * _CELL,
    )
    pictures: list[NDArray[np.uint8]] = []
    maps: list[list[NDArray[np.float16]]] = [[] for _ in STRIDES]
    pairs: list[tuple[int, int]] = []
    for folder in options.packs:
        pack = Pack.load(folder)
        known: dict[int, int] = {}
        for pair in pairs_of(pack, options.every, options.step):
            for index in pair:
                if index not in known:
                    known[index] = len(pictures)
                    picture = np.stack([cv2.resize(p, (width, height)) for p in pack.frames[index]])
                    mirror = np.ascontiguousarray(picture[:, :, ::-1])
                    pictures.append(picture)
                    both = zip(looked_at(engine, picture), looked_at(engine, mirror), strict=True)
                    for of_stride, two in zip(maps, both, strict=True):
                        of_stride.append(np.stack(two))
            pairs.append((known[pair[0]], known[pair[1]]))
    engine.close()
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "pictures.npy", np.stack(pictures))
    np.save(options.out / "pairs.npy", np.array(pairs))
    for stride, of_stride in zip(STRIDES, maps, strict=True):
        np.save(options.out / f"maps{stride}.npy", np.stack(of_stride))
    sys.stdout.write(f"{options.out}: {len(pictures)} pictures, {len(pairs)} pairs\n")


if __name__ == "__main__":
    main()
