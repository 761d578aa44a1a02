"""Train the "street" detector on packs; offline, on a GPU or on plain processor cores.

Needs torch, numpy and OpenCV alone. The learning rate follows the clock, so that a run ends when
its minutes are over; stopped and started again, it goes on from its last checkpoint.

    python -m engines.detectors.train PACKS RUN --minutes 60 --mix coco=2,crowd=3
    python -m engines.detectors.train PACKS RUN --minutes 20 --mix coco=2 --start-from OTHER_RUN
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from engines.detectors.examples import Packs
from engines.detectors.loss import Targets, candidates, detection_loss
from engines.detectors.model import Config, StreetNet, cell_grid
from engines.training import Average, Run, decayed, set_lr

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
    start_from: Path | None = None
    """Run whose average to go on from with batch norms as they are; it may be of another size."""
    frozen: Sequence[str] = ()
    """Parts of the network that do not learn."""


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


def train(packs: Packs, folder: Path, options: Options) -> None:
    """Train until the minutes are over, from the last checkpoint in `folder` where there is one."""
    width, height = packs.size
    start = load_average(options.start_from) if options.start_from else None
    config = replace(start.config if start else Config(), width=width, height=height)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    net = StreetNet(config).train()
    if start:
        net.load_state_dict(start.state_dict())
        net.eval()  # batch norms, if any, stay as they are
    for name in options.frozen:
        net.get_submodule(name).requires_grad_(False)
    net.to(device, memory_format=torch.channels_last)
    average = Average(net, EMA_DECAY)
    optimizer = torch.optim.AdamW(decayed(net, options.weight_decay), lr=options.lr)
    run = Run(
        folder,
        {"net": net, "average": average.net, "optimizer": optimizer},
        config=asdict(config),
    )
    forward = torch.compile(net) if options.compiled else net
    batches = iter(
        torch.utils.data.DataLoader(
            Stream(packs, config, options, run.step),
            batch_size=None,
            num_workers=options.workers,
            pin_memory=device.type == "cuda",
        )
    )
    grid = cell_grid(config, device)
    begin = time.monotonic() - run.spent_s
    logged, saved, first = time.monotonic(), time.monotonic(), run.step
    while run.spent_s < options.minutes * 60:
        pictures, targets = next(batches)
        part = run.spent_s / (options.minutes * 60)
        set_lr(optimizer, options.lr, part=part, warm=(run.step + 1) / _WARM_UP_STEPS)
        planes = pictures.to(device, non_blocking=True).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            rows = forward(planes)
        parts = detection_loss(rows.float(), targets.to(device), grid)
        optimizer.zero_grad(set_to_none=True)
        sum(parts).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        run.step += 1
        average.update(net, run.step)
        now = time.monotonic()
        run.spent_s = now - begin
        if now - logged >= _LOG_S:
            score, box = (part.item() for part in parts)
            rate = (run.step - first) * options.batch / (now - logged)
            run.log(
                f"step {run.step} min {run.spent_s / 60:.1f} score {score:.3f} box {box:.3f} "
                f"pictures/s {rate:.1f}"
            )
            logged, first = now, run.step
        if now - saved >= _CHECKPOINT_S:
            run.save()
            saved = now
    run.save()


def load_average(run: Path) -> StreetNet:
    """Load the averaged network of a run, ready for export."""
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    net = StreetNet(Config(**state["config"]))
    net.load_state_dict(state["average"])
    net.eval()
    return net


def main(argv: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("packs", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--mix", required=True, help="pack=weight,... such as coco=2,crowd=3")
    parser.add_argument("--calm", default="", help="packs not to zoom or degrade: fight,crowd")
    parser.add_argument("--batch", type=int, default=64 if cuda else 16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--start-from", type=Path, metavar="RUN", help="go on from its average")
    parser.add_argument("--freeze", nargs="+", default=[], help="parts: stem stage3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mosaic", type=float, default=0.15)
    parser.add_argument("--bf16", action="store_true", default=cuda, help="on processors with AMX")
    parser.add_argument("--compile", action="store_true", default=cuda, help="minutes, then faster")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    mix = {name: float(share) for name, share in (m.split("=") for m in options.mix.split(","))}
    train(
        Packs(options.packs, mix, options.calm.split(",")),
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
            seed=options.seed,
            start_from=options.start_from,
            frozen=options.freeze,
        ),
    )


if __name__ == "__main__":
    main()
