"""Measure by source what OFF adds to its backbone on a folder of labelled clips; offline.

    python -m engines.off.crossvalidate --data DIR --folds 5

The backbone is frozen and its maps are cached, so that only heads and OFF are trained: RGB alone
and RGB + OFF with three seeds each; each level of OFF alone and RGB-difference beside with one. A
seed also deals the sources to folds anew. Clips of the source "unknown" are only trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from engines.off.config import Modality
from engines.off.confusion import confusion_svg
from engines.off.features import quick_eye, write_variant
from engines.off.metrics import (
    Interval,
    accuracy,
    auc,
    bootstrap,
    confusion,
    folds_by_source,
    mean_class_accuracy,
)
from engines.off.model import OffNet
from engines.off.pack import FIGHT_CLASSES, pack_clips
from engines.off.shards import Pack
from engines.off.train import Cached, Options, fit
from engines.off.variants import Variant, load_variants
from engines.off.warm import clip_strengths, standardise_units, warm_start
from engines.off.weights import SHIPPED_BACKBONE, initial_net

F64 = NDArray[np.float64]
Int = NDArray[np.int64]

SIZE = (320, 192)
SEEDS = 3
RGB_EPOCHS, OFF_EPOCHS = 8, 1
DIFF_WEIGHT = 0.8
"""Of the differences' score beside the pictures', as published."""


@dataclass(frozen=True, slots=True)
class Held:
    """Logits of every clip (N, classes), each from the network that didn't see its source."""

    rgb: F64
    levels: tuple[F64, ...]
    fused: F64


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained again and again."""

    pack: Pack
    backbone: str
    features: Path
    modality: Modality = "rgb"

    def variants(self, count: int) -> list[Variant]:
        """Maps of the backbone; those that are missing are computed."""
        folders = [self.features / f"variant{number:02d}" for number in range(count)]
        if not all((folder / "clips.npz").exists() for folder in folders):
            net = self.net().eval()
            eye = quick_eye(net)
            for number, folder in enumerate(folders):
                if not (folder / "clips.npz").exists():
                    write_variant(net, eye, self.pack, folder, number or None)
                    _say(f"{folder}")
        return load_variants(self.features)

    def net(self, levels: Sequence[str] = ("8", "16", "32")) -> OffNet:
        """Make a fresh network with units at these strides."""
        return initial_net(self.backbone, len(self.pack.classes), SIZE, self.modality, levels)


def hold_out(
    task: Task, variants: list[Variant], folds: int, seed: int, levels: Sequence[str]
) -> Held:
    """Train once for each fold and score what was held out."""
    truth = task.pack.clip_labels().astype(np.int64)
    fold = folds_by_source(task.pack.source, truth, folds, seed=seed)
    classes = len(task.pack.classes)
    rgb = np.zeros((len(truth), classes))
    of_level = [np.zeros_like(rgb) for _ in levels]
    fused = np.zeros_like(rgb)
    first = task.net(levels)
    order = first.config.order
    examples = Cached(variants, order)
    deepest = Cached([variant.last_tap() for variant in variants], order)
    standardise_units(first, variants[0], seed)
    strengths = [clip_strengths(first, variant) for variant in variants]
    for number in range(folds):
        seen = np.flatnonzero(fold != number)
        weight = 1 / np.bincount(truth[seen], minlength=classes)
        balance = torch.tensor(weight / weight.mean(), dtype=torch.float32)
        torch.manual_seed(seed * folds + number)
        net = task.net(levels)
        net.units.load_state_dict(first.units.state_dict())
        options = Options(RGB_EPOCHS, seed=seed, lr=5e-3)
        fit(net, "rgb", deepest, seen, options, balance=balance)
        warm_start(net, strengths, torch.from_numpy(truth), seen, balance)
        fit(net, "off", examples, seen, Options(OFF_EPOCHS, seed=seed), balance=balance)
        for clip in np.flatnonzero(fold == number):
            begin, end = int(variants[0].start[clip]), int(variants[0].start[clip + 1])
            with torch.no_grad():
                scores = net.classify(variants[0].gathered(np.arange(begin, end)[None]))
            rgb[clip], fused[clip] = scores.rgb[0].numpy(), scores.fused[0].numpy()
            for row, logits in zip(of_level, scores.levels, strict=True):
                row[clip] = logits[0].numpy()
    return Held(rgb, tuple(of_level), fused)


def report(scores: F64, truth: Int, source: NDArray[np.str_]) -> dict[str, float | list[float]]:
    """Figures of one set of held-out scores."""
    interval: Interval = bootstrap(lambda rows: accuracy(scores[rows], truth[rows]), source)
    return {
        "accuracy": round(accuracy(scores, truth), 4),
        "accuracy_95": interval.as_list()[1:],
        "mean_class_accuracy": round(mean_class_accuracy(scores, truth), 4),
        "auc": round(auc(scores, truth), 4),
    }


def summary(runs: Sequence[F64], truth: Int, source: NDArray[np.str_]) -> dict[str, object]:
    """Mean, spread and each run of several seeds, and the interval of the mean by source."""
    figures = [accuracy(scores, truth) for scores in runs]
    right = np.mean([scores.argmax(1) == truth for scores in runs], axis=0)
    interval = bootstrap(lambda rows: float(right[rows].mean()), source)
    return {
        "accuracy": round(float(np.mean(figures)), 4),
        "spread": round(float(np.std(figures)), 4),
        "accuracy_95": interval.as_list()[1:],
        "mean_class_accuracy": round(
            float(np.mean([mean_class_accuracy(s, truth) for s in runs])), 4
        ),
        "auc": round(float(np.mean([auc(s, truth) for s in runs])), 4),
        "seeds": [report(scores, truth, source) for scores in runs],
    }


def gain(
    with_off: Sequence[F64], without: Sequence[F64], truth: Int, source: NDArray[np.str_]
) -> dict[str, object]:
    """Paired difference: the same clips, folds and seeds with OFF and without."""
    difference = np.mean(
        [
            (a.argmax(1) == truth).astype(float) - (b.argmax(1) == truth)
            for a, b in zip(with_off, without, strict=True)
        ],
        axis=0,
    )
    interval = bootstrap(lambda rows: float(difference[rows].mean()), source)
    return {
        "points": round(100 * interval.value, 2),
        "points_95": [round(100 * interval.low, 2), round(100 * interval.high, 2)],
    }


def crossvalidate(
    task: Task, folds: int, variants: int, *, seeds: int = SEEDS
) -> tuple[dict[str, object], Int]:
    """Run everything; gives the figures and the counts (true, said) of RGB + OFF, first seed."""
    truth = task.pack.clip_labels().astype(np.int64)
    tested = task.pack.source != "unknown"
    y, source = truth[tested], task.pack.source[tested]
    maps = task.variants(variants)
    strides = ("8", "16", "32")
    held = []
    for seed in range(seeds):
        held.append(hold_out(task, maps, folds, seed, strides))
        _say(
            f"seed {seed}: rgb {accuracy(held[-1].rgb[tested], y):.3f} "
            f"rgb+off {accuracy(held[-1].fused[tested], y):.3f}"
        )
    rgb, both = [h.rgb[tested] for h in held], [h.fused[tested] for h in held]
    figures: dict[str, object] = {
        "clips": int(tested.sum()),
        "sources": len(np.unique(source)),
        "folds": folds,
        "rgb": summary(rgb, y, source),
        "rgb_off": summary(both, y, source),
        "gain": gain(both, rgb, y, source),
        "heads": {
            f"level{s}": report(held[0].levels[i][tested], y, source) for i, s in enumerate(strides)
        },
    }
    alone: dict[str, object] = {}
    for stride in strides:
        one = hold_out(task, maps, folds, 0, (stride,))
        alone[f"rgb_off{stride}"] = report(one.fused[tested], y, source)
        _say(f"units at stride {stride} alone: {alone[f'rgb_off{stride}']}")
    figures["levels_alone"] = alone
    diff_task = Task(task.pack, task.backbone, task.features.with_name("diff"), "diff")
    diff = hold_out(diff_task, diff_task.variants(min(variants, 2)), folds, 0, strides)
    with_diff = held[0].fused + DIFF_WEIGHT * diff.fused
    figures["diff_off"] = report(diff.fused[tested], y, source)
    figures["rgb_off_diff_off"] = report(with_diff[tested], y, source)
    return figures, confusion(both[0], y, len(task.pack.classes))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> None:
    """Cross-validate and write the figures; the last line of the output is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv and clips")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--classes", default=",".join(FIGHT_CLASSES))
    parser.add_argument("--backbone", default=str(SHIPPED_BACKBONE), help="weights, or random")
    parser.add_argument("--work", type=Path, help="folder for packs and maps; kept")
    parser.add_argument("--variants", type=int, default=2, help="views of each clip, one plain")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--plot", type=Path, help="SVG file for the confusion plot")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        if not (work / "pack" / "clips.npz").exists():
            pack_clips(options.data, options.classes.split(",")).save(work / "pack")
        pack = Pack.load(work / "pack")
        task = Task(pack, options.backbone, work / "rgb")
        figures, counts = crossvalidate(task, options.folds, options.variants, seeds=options.seeds)
    figures["seconds"] = round(time.monotonic() - begin)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(confusion_svg(counts, pack.classes), encoding="utf-8")
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
