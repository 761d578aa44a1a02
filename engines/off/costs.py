"""Measure what OFF costs beside its backbone alone, one streaming sample at a time; offline.

    python -m engines.off.costs --rounds 60 --out benchmarks/results/off_costs.json

Both graphs take turns, so that a busy machine slows both. Time is that of the processor, summed
over its threads, and for two threads that of the clock as well. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from engines.base import Engine, zeros
from engines.export import export as export_onnx
from engines.load import load_engine
from engines.off.export import example_inputs, export
from engines.off.model import OffNet
from engines.off.signature import PLANES
from engines.off.weights import SHIPPED_BACKBONE, initial_net


class BackboneAlone(nn.Module):  # type: ignore[misc]
    """What a recogniser on single pictures would run."""

    def __init__(self, net: OffNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, planes: Tensor) -> Tensor:
        maps = self.net.backbone(self.net.colour(planes))
        logits: Tensor = self.net.rgb_head(maps[-1])
        return logits


def measure(engines: Sequence[Engine], rounds: int) -> list[tuple[float, float]]:
    """Median milliseconds of the processor and of the clock of each engine, taking turns."""
    inputs = [zeros(engine.inputs) for engine in engines]
    for engine in engines:
        engine.warm_up()
    taken = np.zeros((rounds, len(engines), 2))
    for round_ in taken:
        for row, engine, arrays in zip(round_, engines, inputs, strict=True):
            used, begin = time.process_time(), time.perf_counter()
            engine.infer(arrays)
            row[:] = time.process_time() - used, time.perf_counter() - begin
    return [(float(cpu), float(wall)) for cpu, wall in 1000 * np.median(taken, axis=0)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--size", default="320x192")
    parser.add_argument("--device", default="openvino:cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(argv)
    width, height = (int(n) for n in options.size.split("x"))
    net = initial_net(str(SHIPPED_BACKBONE), 2, (width, height)).eval()
    backbone_macs, off_macs = net.macs()
    figures: dict[str, object] = {
        "size": options.size,
        "device": options.device,
        "backbone_mmacs": round(backbone_macs / 1e6, 2),
        "off_mmacs": round(off_macs / 1e6, 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        whole, alone = Path(folder) / "whole.onnx", Path(folder) / "alone.onnx"
        export(net, whole, ("a", "b"), background="a", scope="frame", window=16)
        planes = {PLANES: example_inputs(net, 2)[PLANES]}
        export_onnx(BackboneAlone(net), planes, alone, outputs=["logits"], tolerance=1e-3)
        for precision in ("f32", "auto"):
            for threads in (1, 2):
                engines = [
                    load_engine(
                        path, device=options.device, threads=threads, precision=precision, batch=1
                    )
                    for path in (alone, whole)
                ]
                (cpu_alone, wall_alone), (cpu, wall) = measure(engines, options.rounds)
                for engine in engines:
                    engine.close()
                figures[f"{precision}_{threads}_threads"] = {
                    "backbone_cpu_ms": round(cpu_alone, 3),
                    "off_cpu_ms": round(cpu, 3),
                    "ratio_cpu": round(cpu / cpu_alone, 3),
                    "backbone_ms": round(wall_alone, 3),
                    "off_ms": round(wall, 3),
                }
    text = json.dumps(figures)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
