"""Train a recogniser in two steps as published: backbone and its head, then OFF on it; offline.

    python -m engines.off.train PACK RUN rgb --init PRETRAINED --epochs 30
    python -m engines.off.train PACK RUN off --epochs 60

In the second step the backbone and its statistics are frozen. With --features DIR (made by
engines.off.features) the maps of the backbone are read instead of computed; then the first step
trains the head alone. Resumable; on a GPU (--device cuda --bf16) or a processor.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.off.augment import augmented_clip, jittered_index
from engines.off.config import Config
from engines.off.model import OffNet
from engines.off.shards import Pack
from engines.off.variants import Variant, load_variants
from engines.off.warm import clip_strengths, standardise_units, warm_start
from engines.off.weights import initial_net, load_net, save_net

Step = Literal["rgb", "off"]
Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Options:
    """How to train one step."""

    epochs: int
    batch: int = 16
    """Clips."""
    segments: int = 3
    """Runs of following samples that are drawn from each clip, as short as a score allows."""
    span: int | None = None
    """Samples that they lie within, all of one label; None is the whole clip."""
    lr: float = 1e-3
    weight_decay: float = 0.05
    smoothing: float = 0.1
    bf16: bool = False
    device: str = "cpu"
    seed: int = 0


class Examples(Protocol):
    """Where batches come from."""

    def batch(
        self, clips: Int, options: Options, rng: np.random.Generator
    ) -> tuple[list[Tensor] | Tensor, Tensor]:
        """Short runs of some clips and the label of each.

        Returns:
            Maps (B, segments, run, C, h, w) of each tap, or planes (B, segments, run, 3, H, W),
            and labels (B,).
        """


class Cached:
    """Examples from maps that were computed before."""

    def __init__(self, variants: Sequence[Variant], order: int) -> None:
        self.variants, self.order = (variants if len(variants) == 1 else variants[1:]), order

    def batch(
        self, clips: Int, options: Options, rng: np.random.Generator
    ) -> tuple[list[Tensor] | Tensor, Tensor]:
        """See Examples."""
        # all of a batch from one variant, so that each tap is read once
        variant = self.variants[int(rng.integers(len(self.variants)))]
        index, labels = zip(
            *(
                draw_runs(rng, variant.label[a:b], a, self.order, options)
                for a, b in _spans(variant, clips)
            ),
            strict=True,
        )
        return variant.gathered(np.stack(index)), torch.tensor(labels)


class Pictures:
    """Examples from packed pictures, augmented anew each time."""

    def __init__(self, pack: Pack, size: tuple[int, int], config: Config) -> None:
        self.pack, self.size, self.config = pack, size, config

    def batch(
        self, clips: Int, options: Options, rng: np.random.Generator
    ) -> tuple[list[Tensor] | Tensor, Tensor]:
        """See Examples; each run comes with the `lag` pictures before it."""
        planes, labels = [], []
        for clip in clips:
            begin, end = self.pack.span(int(clip))
            index = jittered_index(rng, end - begin)
            of_index = self.pack.label[begin:end][index]
            lag, order = self.config.lag, self.config.order
            runs, label = draw_runs(rng, of_index[lag:], 0, order, options)
            wanted = runs[:, :1] + np.arange(self.config.least)
            frames = self.pack.frames[begin:end][index[wanted.reshape(-1)]]
            changed = augmented_clip(frames, self.size, rng)
            planes.append(changed.reshape(*wanted.shape, *changed.shape[1:]))
            labels.append(label)
        return torch.from_numpy(np.stack(planes)), torch.tensor(labels)


def draw_runs(
    rng: np.random.Generator, label: NDArray[np.int16], first: int, order: int, options: Options
) -> tuple[Int, int]:
    """Choose runs of following samples of one label: index (segments, 1 + order) from `first`."""
    if len(label) < 1 + order:
        raise ValueError(
            f"label must have at least {1 + order} samples, got {len(label)}; drop short clips"
        )
    at, span = 0, len(label)
    if options.span is not None:
        span = min(options.span, len(label))
        at = int(rng.integers(len(label) - span + 1))
    target = int(label[at + span - 1])
    windows = np.lib.stride_tricks.sliding_window_view(label, 1 + order)
    pure = at + np.flatnonzero((windows[at : at + span - order] == target).all(1))
    if len(pure) < (span - order) // 2 or not len(pure):  # hardly begun: take what is of one kind
        pure = np.flatnonzero((windows == windows[:, :1]).all(1))
        target = int(label[rng.choice(pure)])
        pure = pure[label[pure] == target]
    chosen = np.sort(rng.choice(pure, options.segments, replace=len(pure) < options.segments))
    return first + chosen[:, None] + np.arange(1 + order), target


def fit(
    net: OffNet,
    step: Step,
    examples: Examples,
    clips: Int,
    options: Options,
    *,
    run: Path | None = None,
    balance: Tensor | None = None,
) -> list[float]:
    """Train one step in place.

    Args:
        net: whose backbone stays as it is in step off, or if the examples are maps.
        step: what is trained.
        examples: give batches.
        clips: numbers of the clips to train on.
        options: how.
        run: folder for checkpoints and resuming; None keeps none.
        balance: weight of each class in the loss.

    Returns:
        Mean loss of each epoch run now.
    """
    torch.manual_seed(options.seed)
    net.to(options.device)
    parts = trained_parts(net, step, examples)
    parameters = [p for part in parts for p in part.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=options.lr,
    )
    epoch = _resume(run, step, net, optimizer)
    per_epoch = math.ceil(len(clips) / options.batch)
    history = []
    while epoch < options.epochs:
        net.eval()
        for part in parts:
            part.train()
        rng = np.random.default_rng((options.seed, epoch))
        order = rng.permutation(clips)
        total = 0.0
        for number in range(per_epoch):
            done = (epoch + number / per_epoch) / options.epochs
            warm = min((epoch * per_epoch + number + 1) / 20, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = options.lr * warm * (0.5 + 0.5 * math.cos(math.pi * done))
            chosen = order[number * options.batch : (number + 1) * options.batch]
            inputs, labels = examples.batch(chosen, options, rng)
            with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
                logits = consensus(net, step, inputs, options.device)
            loss = torch.stack(
                [
                    F.cross_entropy(
                        x.float(),
                        labels.to(options.device),
                        weight=balance,
                        label_smoothing=options.smoothing,
                    )
                    for x in logits
                ]
            ).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            total += loss.item()
        epoch += 1
        history.append(total / per_epoch)
        _save(run, step, net, optimizer, epoch, history[-1])
    net.eval()
    return history


def trained_parts(net: OffNet, step: Step, examples: Examples) -> list[nn.Module]:
    """Name the modules that a step trains."""
    if step == "off":
        return [net.units, net.levels]
    return [net.rgb_head] if isinstance(examples, Cached) else [net.backbone, net.rgb_head]


def consensus(net: OffNet, step: Step, inputs: list[Tensor] | Tensor, device: str) -> list[Tensor]:
    """Logits (B, classes) that a step is trained by: one of the backbone, or one a level."""
    if isinstance(inputs, Tensor):
        clips, segments = inputs.shape[:2]
        with torch.set_grad_enabled(step == "rgb"):
            maps = net.maps_of(inputs.flatten(0, 1).to(device))
    else:
        clips, segments = inputs[0].shape[:2]
        maps = [x.flatten(0, 1).to(device) for x in inputs]
    pairs = [net.rgb_logits(maps)] if step == "rgb" else net.pair_logits(maps)
    return [x.mean(1).unflatten(0, (clips, segments)).mean(1) for x in pairs]


def begun(run: Path, step: Step) -> bool:
    """Whether the last checkpoint of a run is of this step."""
    path = run / "checkpoint.pt"
    if not path.exists():
        return False
    state = torch.load(path, map_location="cpu", weights_only=True)
    return bool(state["step"] == step)


def class_weights(pack: Pack) -> Tensor:
    """Weight of each class in the loss: halfway, as a ratio, to making all count the same."""
    counts = np.bincount(pack.label[pack.label >= 0], minlength=len(pack.classes))
    weight = 1 / np.sqrt(np.maximum(counts, 1))
    return torch.tensor(weight / weight.mean(), dtype=torch.float32)


def _spans(variant: Variant, clips: Int) -> list[tuple[int, int]]:
    return [(int(variant.start[c]), int(variant.start[c + 1])) for c in clips]


def _resume(run: Path | None, step: Step, net: OffNet, optimizer: torch.optim.Optimizer) -> int:
    """Go on where the run stopped; step off begins with what step rgb left."""
    if run is None or not (run / "checkpoint.pt").exists():
        return 0
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    net.load_state_dict(state["net"])
    if state["step"] != step:
        return 0
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"])


def _save(
    run: Path | None,
    step: Step,
    net: OffNet,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    loss: float,
) -> None:
    if run is None:
        return
    run.mkdir(parents=True, exist_ok=True)
    state = {
        "config": asdict(net.config),
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "epoch": epoch,
    }
    torch.save(state, run / "checkpoint.tmp")
    (run / "checkpoint.tmp").replace(run / "checkpoint.pt")
    with (run / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"{step} epoch {epoch} loss {loss:.4f}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Train one step from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("step", choices=("rgb", "off"))
    parser.add_argument("--init", default="random", help="run of engines.off.pretrain")
    parser.add_argument("--features", type=Path, help="maps by engines.off.features")
    parser.add_argument("--size", default="320x192")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--span", type=int, help="samples of one label, for clips of several")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    pack = Pack.load(options.pack)
    width, height = (int(n) for n in options.size.split("x"))
    net = initial_net(options.init, len(pack.classes), (width, height))
    examples: Cached | Pictures
    variants: list[Variant] = []
    if options.features:
        variants = load_variants(options.features)
        if options.step == "rgb":
            variants = [variant.last_tap() for variant in variants]
        examples = Cached(variants, net.config.order)
    else:
        examples = Pictures(pack, (width, height), net.config)
    if variants and options.step == "off" and not begun(options.run, "off"):
        if begun(options.run, "rgb"):
            net = load_net(options.run / "checkpoint.pt")
        standardise_units(net, variants[0], seed=0)
        if options.span is None:
            strengths = [clip_strengths(net, variant) for variant in variants]
            labels = torch.from_numpy(pack.clip_labels().astype(np.int64))
            warm_start(net, strengths, labels, np.arange(len(pack)))
        save_net(net, options.run / "checkpoint.pt", step="rgb")
    history = fit(
        net,
        options.step,
        examples,
        np.arange(len(pack)),
        Options(
            options.epochs,
            lr=options.lr,
            span=options.span,
            bf16=options.bf16,
            device=options.device,
        ),
        run=options.run,
        balance=class_weights(pack).to(options.device),
    )
    sys.stdout.write(f"{options.run}: loss {history[-1] if history else math.nan:.4f}\n")


if __name__ == "__main__":
    main()
