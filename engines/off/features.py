"""Keep the maps of a frozen backbone for every clip of a pack, plain and augmented; offline.

    python -m engines.off.features PACK BACKBONE_RUN OUT --variants 5

Variant 0 is plain, for tests; the others are drawn. Each variant is a folder with the maps of the
three taps in fp16 and with `start`, `label` as in a pack, at the recogniser's rate.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.base import Engine
from engines.export import export
from engines.load import load_engine
from engines.off.augment import (
    augmented_clip,
    jittered_index,
    plain_clip,
    plain_index,
)
from engines.off.model import OffNet
from engines.off.shards import Pack
from engines.off.weights import initial_net


class Eye(nn.Module):  # type: ignore[misc]
    """A network's backbone as a graph of its own: pictures, or differences, to maps."""

    def __init__(self, net: OffNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net.backbone(inputs))


def quick_eye(net: OffNet) -> Engine:
    """Load the backbone into the fastest engine here, which is some times faster than torch."""
    names = [f"map{number}" for number in range(len(net.backbone.taps))]
    channels = net.backbone_inputs
    example = torch.rand(2, channels, net.config.height, net.config.width)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eye.onnx"
        export(Eye(net), {"inputs": example}, path, outputs=names, tolerance=1e-3)
        return load_engine(path, device="cpu", batch=1)


def write_variant(net: OffNet, eye: Engine, pack: Pack, folder: Path, seed: int | None) -> None:
    """Run the backbone over all clips; None is the plain variant."""
    size = (net.config.width, net.config.height)
    maps: list[list[NDArray[np.float16]]] = [[] for _ in net.backbone.taps]
    start, labels = [0], []
    for clip in range(len(pack)):
        begin, end = pack.span(clip)
        if seed is None:
            index = plain_index(end - begin)
            planes = plain_clip(pack.frames[begin:end][index], size)
        else:
            rng = np.random.default_rng((seed, clip))
            index = jittered_index(rng, end - begin)
            planes = augmented_clip(pack.frames[begin:end][index], size, rng)
        with torch.no_grad():
            inputs = net.inputs_of(torch.from_numpy(planes)[None])[0].numpy()
        outputs = [eye.infer({"inputs": x[None]}) for x in np.ascontiguousarray(inputs)]
        for number, tap in enumerate(maps):
            rows = [out[f"map{number}"] for out in outputs]
            tap.append(np.concatenate(rows).astype(np.float16))
        index = index[net.config.lag :]
        labels.append(pack.label[begin:end][index])
        start.append(start[-1] + len(index))
    folder.mkdir(parents=True, exist_ok=True)
    for number, tap in enumerate(maps):
        np.save(folder / f"maps{number}.npy", np.concatenate(tap))
    np.savez(folder / "clips.npz", start=np.array(start), label=np.concatenate(labels))


def main(argv: Sequence[str] | None = None) -> None:
    """Write all variants that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("backbone", help="run of engines.off.pretrain, or random")
    parser.add_argument("out", type=Path)
    parser.add_argument("--variants", type=int, default=5)
    parser.add_argument("--size", default="320x192")
    parser.add_argument("--modality", default="rgb", choices=("rgb", "diff"))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pack = Pack.load(options.pack)
    size = tuple(int(n) for n in options.size.split("x"))
    net = initial_net(
        options.backbone, max(len(pack.classes), 2), (size[0], size[1]), options.modality
    ).eval()
    eye = quick_eye(net)
    for number in range(options.variants):
        folder = options.out / f"variant{number:02d}"
        if not (folder / "clips.npz").exists():
            write_variant(net, eye, pack, folder, number or None)
            sys.stdout.write(f"{folder}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
