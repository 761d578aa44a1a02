"""Train the "street" detector on packs; offline, on a GPU or on plain processor cores.

Needs torch, numpy and OpenCV alone. The learning rate follows the clock, so that a run ends when
its minutes are over; stopped and started again, it goes on from its last checkpoint.

    python -m engines.detectors.train PACKS RUN --minutes 60 --mix coco=2,crowd=3
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from engines.detectors.examples import Packs
from engines.detectors.loss import Targets, candidates, detection_loss
from engines.detectors.model import Config, StreetNet, cell_grid

EMA_DECAY = 0.9985
_WARM_UP_STEPS = 150
_CHECKPOINT_S = 180.0
_LOG_S = 20.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to train."""

    minutes: float
    batch: int = 16
    lr: float = 2e-3
    weight_decay: float = 0.02
    mosaic: float = 0.15
    bf16: bool = False
    compiled: bool = False
    device: str = "cpu"
    workers: int = 0
    seed: int = 0


class Stream(torch.utils.data.IterableDataset[tuple[Tensor, Targets]]):  # type: ignore[misc]
    """Endless batches, different in each worker and after each restart."""

    def __init__(self, packs: Packs, config: Config, options: Options, start: int) -> None:
        self._packs, self._config, self._options, self._start = packs, config, options, start

    def __iter__(self) -> Iterator[tuple[Tensor, Targets]]:
        cv2.setNumThreads(1)
        worker = torch.utils.data.get_worker_info()
        random = np.random.default_rng(
            [self._options.seed, self._start, worker.id if worker else 0]
        )
        while True:
            examples = [
                self._packs.augmented(random, mosaic=self._options.mosaic)
                for _ in range(self._options.batch)
            ]
            pictures = torch.from_numpy(np.stack([example.picture for example in examples]))
            yield pictures, candidates(examples, self._config)


class Average:
    """Exponential average of a network, which is what gets exported."""

    def __init__(self, net: nn.Module) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    def update(self, net: nn.Module, step: int) -> None:
        """Move towards the network; faster in the first steps."""
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            states = zip(self.net.state_dict().values(), net.state_dict().values(), strict=True)
            for mine, theirs in states:
                if mine.dtype.is_floating_point:
                    mine.lerp_(theirs, 1 - decay)
                else:
                    mine.copy_(theirs)


def train(packs: Packs, run: Path, options: Options) -> None:
    """Train until the minutes are over, from the last checkpoint in `run` where there is one."""
    width, height = packs.size
    config = Config(width=width, height=height)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    net = StreetNet(config).to(device, memory_format=torch.channels_last).train()
    average = Average(net)
    optimizer = torch.optim.AdamW(_groups(net, options.weight_decay), lr=options.lr)
    step, spent_s = _resume(run, net, average.net, optimizer, device)
    forward = torch.compile(net) if options.compiled else net
    batches = iter(
        torch.utils.data.DataLoader(
            Stream(packs, config, options, step),
            batch_size=None,
            num_workers=options.workers,
            pin_memory=device.type == "cuda",
        )
    )
    grid = cell_grid(config, device)
    before = time.monotonic() - spent_s
    logged, saved, first = time.monotonic(), time.monotonic(), step
    while (spent_s := time.monotonic() - before) < options.minutes * 60:
        pictures, targets = next(batches)
        _set_lr(optimizer, options, step, spent_s)
        planes = pictures.to(device, non_blocking=True).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            rows = forward(planes)
        parts = detection_loss(rows.float(), targets.to(device), grid)
        optimizer.zero_grad(set_to_none=True)
        sum(parts).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        step += 1
        average.update(net, step)
        now = time.monotonic()
        if now - logged >= _LOG_S:
            score, box = (part.item() for part in parts)
            rate = (step - first) * options.batch / (now - logged)
            _log(
                run,
                f"step {step} min {spent_s / 60:.1f} score {score:.3f} box {box:.3f} "
                f"pictures/s {rate:.1f}",
            )
            logged, first = now, step
        if now - saved >= _CHECKPOINT_S:
            _save(run, net, average.net, optimizer, step, now - before)
            saved = now
    _save(run, net, average.net, optimizer, step, spent_s)


def load_average(run: Path) -> StreetNet:
    """Load the averaged network of a run, ready for export."""
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    net = StreetNet(Config(**state["config"]))
    net.load_state_dict(state["average"])
    net.eval()
    return net


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decay kernels, but neither biases nor batch norms."""
    kernels = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _set_lr(optimizer: torch.optim.Optimizer, options: Options, step: int, spent_s: float) -> None:
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(spent_s / (options.minutes * 60), 1.0))
    warm = min((step + 1) / _WARM_UP_STEPS, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = options.lr * warm * max(cosine, 0.01)


def _resume(
    run: Path,
    net: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> tuple[int, float]:
    """Load the last checkpoint; returns its step and the seconds spent so far."""
    path = run / "checkpoint.pt"
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=device, weights_only=True)
    net.load_state_dict(state["net"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["spent_s"])


def _save(
    run: Path,
    net: StreetNet,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    spent_s: float,
) -> None:
    state = {
        "config": asdict(net.config),
        "net": net.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "spent_s": spent_s,
    }
    run.mkdir(parents=True, exist_ok=True)
    torch.save(state, run / "checkpoint.tmp")
    (run / "checkpoint.tmp").replace(run / "checkpoint.pt")


def _log(run: Path, line: str) -> None:
    run.mkdir(parents=True, exist_ok=True)
    with (run / "log.txt").open("a") as log:
        log.write(line + "\n")
    sys.stderr.write(line + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("packs", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--mix", required=True, help="pack=weight,... such as coco=2,crowd=3")
    parser.add_argument("--batch", type=int, default=64 if cuda else 16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--mosaic", type=float, default=0.15)
    parser.add_argument("--bf16", action="store_true", default=cuda, help="on processors with AMX")
    parser.add_argument("--compile", action="store_true", default=cuda, help="minutes, then faster")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    mix = {name: float(share) for name, share in (m.split("=") for m in options.mix.split(","))}
    train(
        Packs(options.packs, mix),
        options.run,
        Options(
            minutes=options.minutes,
            batch=options.batch,
            lr=options.lr,
            mosaic=options.mosaic,
            bf16=options.bf16,
            compiled=options.compile,
            device="cuda" if cuda else "cpu",
            workers=min(12, os.cpu_count() or 1) if cuda else 0,
        ),
    )


if __name__ == "__main__":
    main()
