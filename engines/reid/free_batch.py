"""Give an appearance network that was exported for one crop a call a free batch axis; offline.

Only graphs whose one fixed length is in the reshape before the last layer are known, as those of
OSNet; the result is compared with the original before it is written.

    python -m engines.reid.free_batch osnet.onnx osnet_batched.onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from engines.base import Array, Engine
from engines.crops import F32
from engines.errors import ModelError
from engines.load import load_engine
from engines.reid.runtime import Embedder

TOLERANCE = 1e-4


def free_batch(source: Path, target: Path) -> float:
    """Write the network with a free first axis.

    Returns:
        Largest difference from the original over three random crops.

    Raises:
        ModelError: the network says something else in a batch; nothing was written.
    """
    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in shapes:
            shape = numpy_helper.to_array(node.attribute[0].t).copy()
            if shape.tolist() == [1, -1]:
                shape[0] = 0  # as long as the input's
                node.attribute[0].t.CopyFrom(numpy_helper.from_array(shape))
    unchecked = target.with_suffix(".unchecked")
    onnx.save(model, unchecked)
    try:
        difference = _difference(source, unchecked)
        if difference > TOLERANCE:
            raise ModelError(
                f"{source}: a batch must say what single crops do, differs by {difference:.1e}; "
                "export the network again with dynamic_axes"
            )
        unchecked.replace(target)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def _difference(single: Path, batched: Path) -> float:
    engines = [load_engine(path, device="onnxruntime:cpu") for path in (single, batched)]
    one, many = (Embedder(engine, str(single)).engine for engine in engines)
    shape = [3, *(length or 1 for length in one.inputs[0].shape[1:])]
    crops = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = np.concatenate([_vectors(one, crops[n : n + 1]) for n in range(3)])
    found = _vectors(many, crops)
    for engine in engines:
        engine.close()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _vectors(engine: Engine, crops: F32) -> Array:
    return engine.infer({engine.inputs[0].name: crops})[engine.outputs[0].name]


def main(argv: Sequence[str] | None = None) -> None:
    """Convert one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(argv)
    difference = free_batch(options.source, options.target)
    sys.stdout.write(f"{options.target}: differs by {difference:.1e} from single crops\n")


if __name__ == "__main__":
    main()
