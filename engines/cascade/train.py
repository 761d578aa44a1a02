"""Train the cascade on packs: every stage on all pixels, then each on what it will see; offline.

Needs torch, numpy and OpenCV alone. The learning rate follows the clock, so that a run ends when
its minutes are over; stopped and started again, it goes on from its last checkpoint.

    python -m engines.cascade.train RUN PACK... --minutes 75 --bf16
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
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cascade.examples import Packs
from engines.cascade.model import Cascade, Config, Outputs
from engines.cascade.rule import Rule, spread
from engines.cascade.small import SmallSizes, load_trunk

EMA_DECAY = 0.998
STAGE_WEIGHTS = (0.6, 0.6, 1.0)
BALANCE = 1.03
"""Weight of a class is 1 / log(BALANCE + its share): 34 for the rarest, 3 for a third of all."""

_WARM_UP_STEPS = 150
_CHECKPOINT_S = 120.0
_LOG_S = 20.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to train."""

    minutes: float
    cascade_share: float = 0.15
    """Last part of the minutes, in which each stage sees only what the rule leaves it."""
    rule: Rule = Rule(0.95, 0.25)  # noqa: RUF009  frozen
    batch: int = 8
    size: tuple[int, int] = (352, 288)
    lr: float = 2e-3
    weight_decay: float = 0.03
    balance: float = BALANCE
    agree: float = 0.5
    """Weight of the first stages' disagreement with the last."""
    bf16: bool = False
    compiled: bool = False
    device: str = "cpu"
    workers: int = 0
    seed: int = 0


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


def class_weights(shares: Tensor, balance: float = BALANCE) -> Tensor:
    """Weigh rare classes more: (K,), so that the mean over all pixels is 1."""
    weights = 1 / torch.log(balance + shares)
    return weights / (weights * shares).sum()


def stage_losses(outputs: Outputs, target: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Cross entropy of each stage with the shares of the classes, where the stage ran.

    Args:
        outputs: of the network; logits of any stride.
        target: (N, K, h, w), examples.Example.target.
        weights: (K,) of the classes.
    """
    size = target.shape[2:]
    weighted = target * weights[:, None, None]
    losses = []
    for logits, ran in zip(outputs.logits, (None, *outputs.ran), strict=True):
        logits = logits.float()
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        here = weighted
        if ran is not None:
            here = weighted * spread(ran, size[0] // ran.shape[2])
        entropy = -(here * logits.log_softmax(dim=1)).sum()
        losses.append(entropy / here.sum().clamp(min=1.0))
    return tuple(losses)


def disagreement(outputs: Outputs) -> Tensor:
    """Cross entropy of stages 1 and 2 with the last stage, which they are to foresee, where it ran.

    Blocks that leave early then get the labels that they would have got in the end.
    """
    last = outputs.logits[2].detach().float()
    wanted = last.softmax(dim=1)
    if outputs.ran[1] is not None:
        wanted = wanted * spread(outputs.ran[1], last.shape[2] // outputs.ran[1].shape[2])
    total = last.new_zeros(())
    for logits in outputs.logits[:2]:
        enlarged = F.interpolate(
            logits.float(), size=last.shape[2:], mode="bilinear", align_corners=False
        )
        entropy = -(wanted * enlarged.log_softmax(dim=1)).sum()
        total = total + entropy / wanted.sum().clamp(min=1.0)
    return total


def train(packs: Packs, run: Path, options: Options, config: Config, trunk: Path | None) -> None:
    """Train until the minutes are over, from the last checkpoint in `run` where there is one."""
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    net = Cascade(config)
    if trunk is not None:
        load_trunk(net.stage1, torch.load(trunk, map_location="cpu", weights_only=True)["average"])
    net = net.to(device, memory_format=torch.channels_last).train()
    average = Average(net)
    optimizer = torch.optim.AdamW(_groups(net, options.weight_decay), lr=options.lr)
    step, spent_s = _resume(run, net, average.net, optimizer, device)
    forward = torch.compile(net) if options.compiled else net
    batches = iter(
        torch.utils.data.DataLoader(
            Stream(packs, options, step),
            batch_size=None,
            num_workers=options.workers,
            pin_memory=device.type == "cuda",
        )
    )
    weights = class_weights(torch.from_numpy(packs.shares), options.balance).to(device)
    before = time.monotonic() - spent_s
    logged, saved, first = time.monotonic(), time.monotonic(), step
    while (spent_s := time.monotonic() - before) < options.minutes * 60:
        pictures, target = next(batches)
        part = spent_s / (options.minutes * 60)
        _set_lr(optimizer, options.lr, part, step)
        cascading = part >= 1 - options.cascade_share
        if cascading:
            _freeze_norms(net)
        planes = pictures.to(device, non_blocking=True).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            outputs = forward(planes, options.rule) if cascading else forward(planes)
        losses = stage_losses(outputs, target.to(device), weights)
        optimizer.zero_grad(set_to_none=True)
        loss = sum(w * each for w, each in zip(STAGE_WEIGHTS, losses, strict=True))
        (loss + options.agree * disagreement(outputs)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        average.update(net, step)
        now = time.monotonic()
        if now - logged >= _LOG_S:
            parts = " ".join(f"{each.item():.3f}" for each in losses)
            rate = (step - first) * options.batch / (now - logged)
            kind = "cascade" if cascading else "deep"
            _log(run, f"step {step} min {spent_s / 60:.1f} {kind} {parts} pictures/s {rate:.1f}")
            logged, first = now, step
        if now - saved >= _CHECKPOINT_S:
            _save(run, net, average.net, optimizer, weights, step, now - before)
            saved = now
    _save(run, net, average.net, optimizer, weights, step, spent_s)


def load_average(run: Path, *, unweigh: float = 0.5) -> Cascade:
    """Load the averaged network of a run, ready for export.

    Args:
        run: folder of the run.
        unweigh: part of the class weights' effect that is taken back: rare classes were weighed
            more to be learned, and would be found too often.

    Raises:
        SystemExit: there is no checkpoint.
    """
    path = run / "checkpoint.pt"
    if not path.exists():
        raise SystemExit(f"{path}: checkpoint must be there, got no file; train first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    config = dict(state["config"])
    net = Cascade(Config(**config | {"sizes": SmallSizes(**config["sizes"])}))
    net.load_state_dict(state["average"])
    net.eval()
    with torch.no_grad():
        for stage in (net.stage1, net.stage2, net.stage3):
            stage.head[1].bias -= unweigh * state["weights"].log()
    return net


def _freeze_norms(net: nn.Module) -> None:
    """Keep the statistics of batch norms: a masked batch has others than a whole picture."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decay kernels, but neither biases nor batch norms."""
    kernels = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _set_lr(optimizer: torch.optim.Optimizer, lr: float, part: float, step: int) -> None:
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(part, 1.0))
    warm = min((step + 1) / _WARM_UP_STEPS, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = lr * warm * max(cosine, 0.01)


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
    net: Cascade,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: Tensor,
    step: int,
    spent_s: float,
) -> None:
    state = {
        "config": asdict(net.config),
        "net": net.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "weights": weights,
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
    parser.add_argument("run", type=Path)
    parser.add_argument("packs", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--cascade-share", type=float, default=0.15)
    parser.add_argument("--variant", choices=("small", "published"), default="small")
    parser.add_argument("--trunk", type=Path, help="checkpoint of the detector to start from")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="352x288", help="of the crops")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--balance", type=float, default=BALANCE, help="above 1; less helps rare")
    parser.add_argument("--agree", type=float, default=0.5, help="of early stages with the last")
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
            agree=options.agree,
            bf16=options.bf16,
            compiled=options.compile,
            device="cuda" if cuda else "cpu",
            workers=min(12, os.cpu_count() or 1) if cuda else 0,
            seed=options.seed,
        ),
        config,
        options.trunk,
    )


if __name__ == "__main__":
    main()
