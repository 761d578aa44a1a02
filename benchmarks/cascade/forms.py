"""Run stages 2 and 3 on what is left in several forms: blocks of two sides, pixels, everything.

The pixel form is the compact list of the publication: the nine taps of each undecided position are
gathered, and each layer is one matrix product. Its weights are read from the same ONNX files.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from engines.base import Engine
from engines.cascade.picture import fill_input
from engines.cascade.runtime import Segmenter
from engines.cascade.signature import FILES, HALO
from engines.cascade.stages import BUCKETS, Rule, Stages

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Layer = tuple[F32, F32]
Form = Callable[[U8], tuple[float, F32]]
"""Labels an input: share of the positions that stage 2 was run on, and logits."""
REPEATS = 15


@dataclass(frozen=True, slots=True)
class Way:
    """What one form costs and gives.

    positions_share: part of the map that stage 2 is run on. ms_cpu: of stages 2 and 3, a frame.
    equal: part of the map whose labels are those of the dense graph.
    """

    name: str
    positions_share: float
    ms_cpu: float
    equal: float


class Pixels:
    """One later stage as matrix products over a list of positions."""

    def __init__(self, path: Path) -> None:
        weights = {
            tensor.name.removesuffix(".half"): numpy_helper.to_array(tensor).astype(np.float32)
            for tensor in onnx.load(path).graph.initializer
        }
        self.branch = [self._layer(weights, f"stage.branch.{n}.0") for n in self._count(weights)]
        self.refine = [
            self._layer(weights, f"stage.refine.{n}.0")
            for n in range(2)
            if f"stage.refine.{n}.0.weight" in weights
        ]
        self.head = [self._layer(weights, name) for name in ("stage.head.0.0", "stage.head.1")]
        self._prior = weights["leaving.prior"].reshape(-1)

    def run(self, table: F32, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Layer:
        """What travels on from the listed positions of a table with a halo, and their logits."""
        down, across = np.divmod(np.arange(9), 3)
        taps = table[rows[:, None] + down, columns[:, None] + across]  # (n, 9, C)
        x, known = np.split(taps[:, 4], [-len(self._prior)], axis=1)
        x = np.maximum(x + _through(self.branch, taps.reshape(len(rows), -1)), 0)
        if self.refine:
            x = np.maximum(x + _through(self.refine, x), 0)
        logits = known + _through(self.head, x)
        return np.concatenate([x, logits], axis=1), logits + self._prior

    @staticmethod
    def _count(weights: dict[str, F32]) -> range:
        return range(
            sum(name.startswith("stage.branch.") and name.endswith("weight") for name in weights)
        )

    @staticmethod
    def _layer(weights: dict[str, F32], name: str) -> Layer:
        kernel = weights[f"{name}.weight"]  # (K, C, h, w), taps in reading order with C innermost
        return (
            np.ascontiguousarray(kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))),
            weights[f"{name}.bias"],
        )


def input_of(segmenter: Segmenter, planes: tuple[U8, U8, U8]) -> U8:
    """Input of the network for one frame."""
    signature = segmenter.stages.signature
    out = np.empty((3, signature.height, signature.width), np.uint8)
    fill_input(*planes, out)
    return out


def measure(segmenter: Segmenter, dense: Engine, inputs: Sequence[U8]) -> list[Way]:
    """Time each form on the same inputs; what stage 1 costs is taken off."""
    tuned = segmenter.stages
    everything = Rule(1.0, tuned.rule.share)
    wanted = [_dense(dense, picture)[1].argmax(axis=0) for picture in inputs]
    assert segmenter.folder is not None
    pixels = [Pixels(segmenter.folder / file) for file in FILES[1:]]
    forms: dict[str, Form] = {
        "stage 1 alone": partial(_blocks, tuned, last=1),
        "dense graph": partial(_dense, dense),
        "whole map": partial(_blocks, tuned, rule=everything),
        "blocks of 4": partial(_blocks, tuned),
        "blocks of 2": partial(_blocks, _halved(tuned)),
        "pixels": partial(_pixels, tuned, pixels),
    }
    ways = [_way(name, form, inputs, wanted) for name, form in forms.items()]
    return [replace(way, ms_cpu=round(way.ms_cpu - ways[0].ms_cpu, 2)) for way in ways]


def break_even(segmenter: Segmenter) -> list[tuple[float, float]]:
    """Time of stages 2 and 3 on a share of all blocks, against the map run whole."""
    stages = segmenter.stages
    rows, columns = stages.signature.blocks
    edge, channels = stages.signature.cells + 2 * HALO, stages.signature.channels
    random = np.random.default_rng(0)
    table = random.random((1, rows * 4 + 2, columns * 4 + 2, channels), np.float32)
    whole = _time(lambda: [engine.infer({"blocks": table}) for engine in stages.engines[1:]])
    points = []
    for share in (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        count = round(share * rows * columns)
        windows = np.lib.stride_tricks.sliding_window_view(table[0], (edge, edge), axis=(0, 1))
        chosen = np.divmod(random.permutation(rows * columns)[:count], columns)

        def run(where: tuple[NDArray[np.intp], ...] = chosen, view: F32 = windows) -> None:
            batch = np.ascontiguousarray(view[::4, ::4][where].transpose(0, 2, 3, 1))
            for engine in stages.engines[1:]:
                for first in range(0, len(where[0]), BUCKETS[-1]):
                    engine.infer({"blocks": batch[first : first + BUCKETS[-1]]})

        points.append((count / (rows * columns), _time(run) / whole))
    return points


def _halved(stages: Stages) -> Stages:
    """The same engines with blocks of half the side."""
    signature = replace(stages.signature, block_px=stages.signature.block_px // 2)
    return Stages(stages.engines, signature, stages.rule)


def _dense(dense: Engine, picture: U8) -> tuple[float, F32]:
    return 1.0, dense.infer({"planes": picture[None]})["logits"][0]


def _blocks(
    stages: Stages, picture: U8, *, rule: Rule | None = None, last: int = len(FILES)
) -> tuple[float, F32]:
    everything = np.ones(stages.signature.blocks, bool)
    beyond = stages.run(picture, everything, rule=rule, last=last)
    return beyond / everything.size, stages.logits


def _pixels(stages: Stages, pixels: Sequence[Pixels], picture: U8) -> tuple[float, F32]:
    outputs = stages.engines[0].infer({"planes": picture[None]})
    context = outputs["context"][0].repeat(2, axis=0).repeat(2, axis=1)
    features = np.concatenate([outputs["fine"][0], context], axis=-1)
    table, logits = np.pad(features, ((HALO, HALO), (HALO, HALO), (0, 0))), outputs["logits"][0]
    undecided = ~(outputs["confidence"][0] > stages.rule.rho)
    rows, columns = np.nonzero(undecided.repeat(2, axis=0).repeat(2, axis=1))
    share = len(rows) / logits[0].size
    for stage in pixels:
        new, found = stage.run(table, rows, columns)
        logits[:, rows, columns] = found.T
        table[rows + HALO, columns + HALO] = new
        odds = np.exp(found - found.max(axis=1, keepdims=True))
        left = ~(1 / odds.sum(axis=1) > stages.rule.rho)
        rows, columns = rows[left], columns[left]
    return share, logits


def _through(layers: Sequence[Layer], x: F32) -> F32:
    for index, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if index + 1 < len(layers):
            np.maximum(x, 0, out=x)
    return x


def _way(name: str, form: Form, inputs: Sequence[U8], wanted: Sequence[NDArray[np.intp]]) -> Way:
    """Run a form on all inputs, after a round in which engines prepare themselves."""
    for picture in inputs:
        form(picture)
    spent, shares, equal = [], [], []
    for picture, labels in zip(inputs, wanted, strict=True):
        start = time.process_time()
        share, logits = form(picture)
        spent.append(1e3 * (time.process_time() - start))
        shares.append(share)
        equal.append(float((logits.argmax(axis=0) == labels).mean()))
    mean = statistics.fmean
    return Way(name, mean(shares), statistics.median(spent), mean(equal))


def _time(run: Callable[[], object]) -> float:
    run()
    spent = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return statistics.median(spent)
