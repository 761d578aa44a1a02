"""Turn a trained recogniser into one ONNX file of its streaming form; offline.

Opset 17, free batch axis, uint8 planes in, weights in fp16. The state of a stream is inputs and
outputs, so that the engine remembers nothing.

    python -m engines.off.export RUN OUT.onnx --classes normal,fight --background normal
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from engines.export import export as export_onnx
from engines.off.evaluate import digest
from engines.off.model import OffNet, State
from engines.off.signature import AFTER, BEFORE, FAMILY, LOGITS, PLANES, SCOPES, Scope
from engines.off.weights import load_net

RATE = 8.0
PICTURES = "pictures"
"""Name of the state that remembers pictures, where the network sees differences."""

_SMALLEST = 256  # elements; smaller constants stay as they are


class Streaming(nn.Module):  # type: ignore[misc]
    """The network's step with its state as plain tensors."""

    def __init__(self, net: OffNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, planes: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        units = len(self.net.units)
        pictures = before[units] if len(before) > units else None
        logits, state = self.net.step(planes, State(before[:units], pictures))
        left = state.maps if state.pictures is None else (*state.maps, state.pictures)
        return (logits, *left)


def state_names(net: OffNet) -> list[str]:
    """Name what a stream remembers, in the order of the graph."""
    names = [tap for level in net.config.levels for tap in level.taps]
    return [*names, PICTURES] if net.config.modality == "diff" else names


def export(
    net: OffNet,
    path: Path,
    classes: Sequence[str],
    *,
    background: str,
    scope: Scope,
    window: int,
    rate: float = RATE,
    licence: str = "MIT",
    trained_on: Sequence[str] = (),
) -> float:
    """Write a network as ONNX.

    Args:
        net: is put into evaluation mode; its weights are rounded to fp16.
        path: file to write.
        classes: names, in the order of the heads.
        background: the one that is no event, or "".
        scope: whether it sees whole frames or persons.
        window: samples that a score is the mean over.
        rate: samples a second of media time.
        licence: of the weights.
        trained_on: digests of the clips, so that an evaluation knows which are not new.

    Returns:
        Largest difference from torch.

    Raises:
        ValueError: the classes don't fit the head, or background is none of them.
        ModelError: ONNX computes something else; nothing was written.
    """
    if len(classes) != net.config.classes or background not in (*classes, ""):
        raise ValueError(
            f"{path}: classes must be {net.config.classes} names, background one of them, got "
            f"{', '.join(classes)} and {background!r}; the head decides how many"
        )
    round_weights(net)
    weights = [net.config.rgb_weight, *(level.weight for level in net.config.levels)]
    names = state_names(net)
    difference = export_onnx(
        Streaming(net),
        example_inputs(net, 2),
        path,
        outputs=[LOGITS, *(AFTER + name for name in names)],
        metadata={
            "family": FAMILY,
            "classes": ",".join(classes),
            "background": background,
            "scope": scope,
            "rate": f"{rate:g}",
            "window": str(window),
            "lag": str(net.config.lag),
            "order": str(net.config.order),
            "weights": ",".join(f"{w:g}" for w in weights),
            "licence": licence,
            "trained_on": ",".join(trained_on),
        },
    )
    shrink(path)
    return difference


def example_inputs(net: OffNet, streams: int) -> Mapping[str, Tensor]:
    """Random planes and state of some streams, by the names of the graph's inputs."""
    generator = torch.Generator().manual_seed(0)
    shape = (streams, 3, net.config.height, net.config.width)
    planes = torch.randint(16, 236, shape, generator=generator, dtype=torch.uint8)
    state = net.first_state(streams)
    left = list(state.maps) + ([] if state.pictures is None else [state.pictures])
    before = {
        BEFORE + name: torch.rand(x.shape, generator=generator)
        for name, x in zip(state_names(net), left, strict=True)
    }
    return {PLANES: planes, **before}


def round_weights(net: OffNet) -> None:
    """Round kernels to what fp16 holds, so that the file's precision is the network's."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.half().float())


def shrink(path: Path) -> None:
    """Store large constants in fp16, each with a cast behind it that engines fold away."""
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < _SMALLEST:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}_fp16"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}_fp16"], [name], to=onnx.TensorProto.FLOAT)
        )
    for index, cast in enumerate(casts):
        model.graph.node.insert(index, cast)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--background", default="")
    parser.add_argument("--scope", choices=SCOPES, default="frame")
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--licence", default="MIT")
    parser.add_argument("--trained-on", type=Path, help="folder of the clips it was trained on")
    options = parser.parse_args(argv)
    clips = sorted(options.trained_on.glob("*.mp4")) if options.trained_on else []
    net = load_net(options.run / "checkpoint.pt")
    difference = export(
        net,
        options.out,
        options.classes.split(","),
        background=options.background,
        scope=options.scope,
        window=options.window,
        licence=options.licence,
        trained_on=[digest(clip) for clip in clips],
    )
    size = options.out.stat().st_size
    sys.stdout.write(f"{options.out}: {size} bytes, differs from torch by {difference:.1e}\n")


if __name__ == "__main__":
    main()
