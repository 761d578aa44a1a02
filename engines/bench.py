"""Measure how fast engines run networks on this machine: latency of one call, pictures a second.

Networks take turns, call by call, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.base import Array, Engine, TensorSpec

_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """One network at one batch size."""

    name: str
    engine: str
    device: str
    batch: int
    calls: int
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    """Processor time of the process in one call, median; the other two are what the clock says."""
    pictures_per_s: float


@dataclass(slots=True)
class _Candidate:
    name: str
    engine: Engine
    batch: int
    inputs: dict[str, Array]
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def call(self) -> None:
        """Run once and remember what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.engine.infer(self.inputs)
        self.wall_s.append(time.perf_counter() - wall)
        self.cpu_s.append(time.process_time() - cpu)

    def speed(self) -> Speed:
        """What was measured."""
        p50, p95 = (float(q) for q in np.quantile(self.wall_s, (0.5, 0.95)))
        return Speed(
            self.name,
            f"{self.engine.name} {self.engine.version}",
            self.engine.device,
            self.batch,
            len(self.wall_s),
            round(p50 * 1e3, 3),
            round(p95 * 1e3, 3),
            round(float(np.median(self.cpu_s)) * 1e3, 3),
            round(self.batch / p50, 1),
        )


def race(engines: Sequence[tuple[str, Engine, int]], *, seconds: float) -> list[Speed]:
    """Run engines in turns.

    Args:
        engines: name, engine and batch size of each.
        seconds: how long, in all; each runs five times at least.
    """
    candidates = [
        _Candidate(name, engine, batch, random_inputs(engine.inputs, batch))
        for name, engine, batch in engines
    ]
    for candidate in candidates:
        for _ in range(_WARM_UP):
            candidate.engine.infer(candidate.inputs)
    end = time.monotonic() + seconds
    rounds = 0
    while rounds < 5 or time.monotonic() < end:
        for candidate in candidates:
            candidate.call()
        rounds += 1
    return [candidate.speed() for candidate in candidates]


def random_inputs(specs: Sequence[TensorSpec], batch: int) -> dict[str, Array]:
    """Noise of the right shapes; a free first axis is the batch, other free axes have length 1."""
    random = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for spec in specs:
        free = [batch, *([1] * (len(spec.shape) - 1))]
        shape = [length or other for length, other in zip(spec.shape, free, strict=False)]
        whole = random.integers(0, 256, shape) if spec.dtype.kind in "iu" else random.random(shape)
        arrays[spec.name] = np.ascontiguousarray(whole, dtype=spec.dtype)
    return arrays
