"""Train the cascade on packs: every stage on all pixels, then each on what it will see; offline.

Needs torch, numpy and OpenCV alone. The learning rate follows the clock, so that a run ends when
its minutes are over; stopped and started again, it goes on from its last checkpoint.

    python -m engines.cascade.train RUN PACK... --minutes 75 --bf16
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cascade.blocks import least_sure, padded_rows, run_on_blocks, window_rows
from engines.cascade.examples import Packs
from engines.cascade.model import Cascade, Config
from engines.cascade.rule import Rule, spread
from engines.cascade.small import SmallSizes, load_trunk
from engines.training import Average, Run, decayed, set_lr

EMA_DECAY = 0.998
STAGE_WEIGHTS = (0.6, 0.6, 1.0)
BALANCE = 1.03
"""Weight of a class is 1 / log(BALANCE + its share): 34 for the rarest, 3 for a third of all."""

_RULE = Rule(0.95, 0.25)
_BLOCKS_SHARE, _ANY_SHARE = 0.15, 0.04
"""Parts of all blocks: those that the small variant learns from, and random ones of them."""

_WARM_UP_STEPS = 150
_CHECKPOINT_S = 120.0
_LOG_S = 20.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to train."""

    minutes: float
    cascade_share: float = 0.15
    """Last part of the minutes, in which stages 2 and 3 see only where stage 1 is least sure."""
    batch: int = 8
    size: tuple[int, int] = (352, 288)
    lr: float = 2e-3
    weight_decay: float = 0.03
    balance: float = BALANCE
    bf16: bool = False
    compiled: bool = False
    device: str = "cpu"
    workers: int = 0
    seed: int = 0


class Checkpoint(TypedDict):
    """What a run's checkpoint.pt holds, beside the state of the optimizer."""

    config: dict[str, Any]
    net: dict[str, Tensor]
    average: dict[str, Tensor]
    step: int
    spent_s: float


class Stream(torch.utils.data.IterableDataset[tuple[Tensor, Tensor]]):  # type: ignore[misc]
    """Endless batches, different in each worker and after each restart."""

    def __init__(self, packs: Packs, options: Options, start: int) -> None:
        self._packs, self._options, self._start = packs, options, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        cv2.setNumThreads(1)
        worker = torch.utils.data.get_worker_info()
        random = np.random.default_rng(
            [self._options.seed, self._start, worker.id if worker else 0]
        )
        while True:
            examples = [
                self._packs.draw(random, self._options.size) for _ in range(self._options.batch)
            ]
            yield (
                torch.from_numpy(np.stack([example.picture for example in examples])),
                torch.from_numpy(np.stack([example.target for example in examples])),
            )


def class_weights(shares: Tensor, balance: float = BALANCE) -> Tensor:
    """Weigh rare classes more: (K,), so that the mean over all pixels is 1."""
    weights = 1 / torch.log(balance + shares)
    return weights / (weights * shares).sum()


def deep_losses(net: Cascade, planes: Tensor, weighted: Tensor) -> Sequence[Tensor]:
    """Run every stage on all positions; cross entropy of each.

    Args:
        net: the network.
        planes: (N, 3, h, w).
        weighted: (N, K, h / 4, w / 4), shares of the classes times their weights.
    """
    return [entropy(logits, weighted) for logits in net(planes).logits]


def region_losses(
    net: Cascade, planes: Tensor, weighted: Tensor, rule: Rule = _RULE
) -> Sequence[Tensor]:
    """Run each stage of any variant, masked; cross entropy where the rule sends blocks."""
    outputs = net(planes, rule)
    here = [weighted]
    for ran in outputs.ran:
        assert ran is not None
        here.append(weighted * spread(ran, weighted.shape[2] // ran.shape[2]))
    return [entropy(*each) for each in zip(outputs.logits, here, strict=True)]


def cascade_losses(net: Cascade, planes: Tensor, weighted: Tensor) -> Sequence[Tensor]:
    """Run stages 2 and 3 of the small variant on the blocks that stage 1 is least sure of."""
    block, strides = net.config.block_px, net.config.strides
    features, first = net.stage1(planes.to(next(net.parameters()).dtype) / 128)
    count = round(_BLOCKS_SHARE * planes.shape[0] * planes.shape[2] * planes.shape[3] / block**2)
    chosen = least_sure(first.detach(), block // strides[0], count, _ANY_SHARE)
    cells = block // strides[1]
    wanted = padded_rows(weighted)[window_rows(chosen, features.shape, cells, 0).flatten()]
    later = run_on_blocks((net.stage2, net.stage3), features, chosen, cells)
    return [entropy(first, weighted), *(entropy(logits, wanted) for logits in later)]


def entropy(logits: Tensor, weighted: Tensor) -> Tensor:
    """Weighted mean of cross entropies; logits of a coarser map are enlarged."""
    logits = logits.float()
    if logits.shape != weighted.shape:
        size = weighted.shape[2:]
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return -(weighted * logits.log_softmax(dim=1)).sum() / weighted.sum().clamp(min=1.0)


def train(
    packs: Packs,
    folder: Path,
    options: Options,
    config: Config,
    *,
    trunk: Path | None = None,
    start: Path | None = None,
) -> None:
    """Train until the minutes are over, from the last checkpoint in `folder` if there is one.

    Args:
        packs: to draw from.
        folder: for checkpoints and the log.
        options: how to train.
        config: which network.
        trunk: checkpoint of the detector whose backbone stage 1 begins with.
        start: another run, with whose averaged weights this one begins.
    """
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    net = Cascade(config)
    if trunk is not None:
        load_trunk(net.stage1, torch.load(trunk, map_location="cpu", weights_only=True)["average"])
    if start is not None:
        net.load_state_dict(_checkpoint(start)["average"])
    net = net.to(device, memory_format=torch.channels_last).train()
    average = Average(net, EMA_DECAY)
    optimizer = torch.optim.AdamW(decayed(net, options.weight_decay), lr=options.lr)
    weights = class_weights(torch.from_numpy(packs.shares), options.balance)
    parts = {"net": net, "average": average.net, "optimizer": optimizer}
    run = Run(folder, parts, config=asdict(config))
    weights = weights.to(device)
    small = config.variant == "small"
    steps = {"deep": deep_losses, "cascade": cascade_losses if small else region_losses}
    if options.compiled:
        steps = {kind: torch.compile(losses) for kind, losses in steps.items()}
    batches = iter(
        torch.utils.data.DataLoader(
            Stream(packs, options, run.step),
            batch_size=None,
            num_workers=options.workers,
            pin_memory=device.type == "cuda",
        )
    )
    before = time.monotonic() - run.spent_s
    logged, saved, first = time.monotonic(), time.monotonic(), run.step
    while (spent_s := time.monotonic() - before) < options.minutes * 60:
        part = spent_s / (options.minutes * 60)
        pictures, target = next(batches)
        set_lr(optimizer, options.lr, part=part, warm=(run.step + 1) / _WARM_UP_STEPS)
        kind = "cascade" if part >= 1 - options.cascade_share else "deep"
        planes = pictures.to(device, non_blocking=True).to(memory_format=torch.channels_last)
        weighted = target.to(device) * weights[:, None, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            losses = steps[kind](net, planes, weighted)
        optimizer.zero_grad(set_to_none=True)
        sum(w * each for w, each in zip(STAGE_WEIGHTS, losses, strict=True)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        run.step += 1
        average.update(net, run.step)
        now = time.monotonic()
        run.spent_s = now - before
        if now - logged >= _LOG_S:
            each = " ".join(f"{loss.item():.3f}" for loss in losses)
            rate = (run.step - first) * options.batch / (now - logged)
            minutes = run.spent_s / 60
            run.log(f"step {run.step} min {minutes:.1f} {kind} {each} pictures/s {rate:.1f}")
            logged, first = now, run.step
        if now - saved >= _CHECKPOINT_S:
            run.save()
            saved = now
    run.save()


def load_average(run: Path) -> Cascade:
    """Load the averaged network of a run, without a prior.

    Raises:
        SystemExit: there is no checkpoint.
    """
    state = _checkpoint(run)
    config = state["config"]
    net = Cascade(Config(**config | {"sizes": SmallSizes(**config["sizes"])}))
    net.load_state_dict(state["average"])
    net.eval()
    return net


def _checkpoint(run: Path) -> Checkpoint:
    path = run / "checkpoint.pt"
    if not path.exists():
        raise SystemExit(f"{path}: checkpoint must be there, got no file; train first")
    state: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return state


def main(argv: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("packs", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--cascade-share", type=float, default=0.15)
    parser.add_argument("--variant", choices=("small", "published"), default="small")
    parser.add_argument("--trunk", type=Path, help="checkpoint of the detector to start from")
    parser.add_argument("--start", type=Path, help="run whose weights to start from")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="352x288", help="of the crops")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--balance", type=float, default=BALANCE, help="above 1; less helps rare")
    parser.add_argument("--bf16", action="store_true", default=cuda, help="on processors with AMX")
    parser.add_argument("--compile", action="store_true", default=cuda, help="minutes, then faster")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    width, height = (int(n) for n in options.size.split("x"))
    config = Config(variant=options.variant)
    train(
        Packs(options.packs, config.classes),
        options.run,
        Options(
            minutes=options.minutes,
            cascade_share=options.cascade_share,
            batch=options.batch,
            size=(width, height),
            lr=options.lr,
            balance=options.balance,
            bf16=options.bf16,
            compiled=options.compile,
            device="cuda" if cuda else "cpu",
            workers=min(12, os.cpu_count() or 1) if cuda else 0,
            seed=options.seed,
        ),
        config,
        trunk=options.trunk,
        start=options.start,
    )


if __name__ == "__main__":
    main()
