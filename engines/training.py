"""Average, schedule, checkpoints and log of trainings that end with their minutes; offline.

Knows no network.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

NetT = TypeVar("NetT", bound=nn.Module)


class Average(Generic[NetT]):
    """Exponential average of a network, which is what gets exported.

    Args:
        net: network; its copy begins as it is.
        decay: part of the average that a step keeps, in the long run.
    """

    def __init__(self, net: NetT, decay: float) -> None:
        self.net: NetT = copy.deepcopy(net).eval().requires_grad_(False)
        self._decay = decay

    def update(self, net: nn.Module, step: int) -> None:
        """Move towards the network; faster in the first steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            states = zip(self.net.state_dict().values(), net.state_dict().values(), strict=True)
            for mine, theirs in states:
                if mine.dtype.is_floating_point:
                    mine.lerp_(theirs, 1 - decay)
                else:
                    mine.copy_(theirs)


class Stateful(Protocol):
    """A network or an optimiser."""

    def state_dict(self) -> dict[str, object]:
        """Everything that it has learned."""

    def load_state_dict(self, state: Mapping[str, object]) -> object:
        """Take that back."""


class Run:
    """A training in a folder of its own: checkpoint.pt, which it goes on from, and log.txt.

    Args:
        folder: of the run; made if it is not there.
        parts: by their names in the checkpoint; they get what it holds.
        facts: what else belongs into it.

    Attributes:
        step: steps that are done.
        spent_s: time that they took.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Stateful], **facts: object) -> None:
        self._folder, self._parts, self._facts = folder, parts, facts
        self.step, self.spent_s = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.spent_s = int(state["step"]), float(state["spent_s"])

    def save(self) -> None:
        """Replace the checkpoint; to be killed meanwhile costs only what is new."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        path = self._folder / "checkpoint.tmp"
        torch.save({**self._facts, **state, "step": self.step, "spent_s": self.spent_s}, path)
        path.replace(path.with_suffix(".pt"))

    def log(self, line: str) -> None:
        """Write a line to log.txt and to stderr."""
        with (self._folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(line + "\n")
        sys.stderr.write(line + "\n")


def decayed(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters for an optimiser that decays kernels, but neither biases nor batch norms."""
    kernels = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def set_lr(optimizer: torch.optim.Optimizer, lr: float, *, part: float, warm: float) -> None:
    """Set the learning rate: a cosine from lr to a hundredth of it, after a rise.

    Args:
        optimizer: of the run.
        lr: its highest learning rate.
        part: of the run that is over, 0..1.
        warm: of the rise that is over; 1 or more after it.
    """
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(part, 1.0))
    for group in optimizer.param_groups:
        group["lr"] = lr * min(warm, 1.0) * max(cosine, 0.01)
