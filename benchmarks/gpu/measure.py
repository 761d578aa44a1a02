"""Measure one network on one device: agreement with ONNX Runtime, latency, throughput.

Knows no GPU: it asks for an engine and times it, so all of it runs on a processor as well.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Value, percentiles
from engines.base import Arrays, Engine, TensorSpec
from engines.errors import EngineError, ModelError
from engines.load import load_engine
from engines.zoo import SHIPPED, find_model

LIMITS = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 5e-2, "bf16": 0.2, "int8": 0.1}
"""Largest difference from ONNX Runtime on the same file, as part of the output's range."""
_FEWEST = 20
_DEADLINE_S = 60.0


def shipped() -> dict[str, Path]:
    """Files of the shipped networks, as many as there are."""
    found = {}
    for name in SHIPPED:
        try:
            found[name] = find_model(name)
        except ModelError as error:
            sys.stderr.write(f"left out: {error}\n")
    return found


class Oracle:
    """What ONNX Runtime on the processor says of one network; its answers are the truth here."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        self.engine = load_engine(path, device="onnxruntime:cpu", threads=threads)
        stored = path.with_name(f"{path.name.partition('.')[0]}.npz")
        self._frames: Mapping[str, Any] = np.load(stored) if stored.exists() else {}
        self._answers: dict[int, dict[str, np.ndarray]] = {}

    @property
    def source(self) -> str:
        """Where the inputs come from."""
        names = {spec.name for spec in self.engine.inputs}
        return "frames" if names <= set(self._frames) else "noise"

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """Fresh inputs of a batch size: stored frames, again and again, or noise."""
        if self.source == "noise":
            random = np.random.default_rng(0)
            return {spec.name: _noise(spec, batch, random) for spec in self.engine.inputs}
        return {
            spec.name: np.ascontiguousarray(
                np.resize(self._frames[spec.name], (batch, *self._frames[spec.name].shape[1:]))
            ).astype(spec.dtype)
            for spec in self.engine.inputs
        }

    def difference(self, engine: Engine, batch: int) -> float:
        """Largest difference of an engine's outputs, as part of their range."""
        inputs = self.inputs(batch)
        if batch not in self._answers:
            self._answers[batch] = self.engine.infer(inputs)
        got = engine.infer(inputs)
        worst = 0.0
        for name, wanted in self._answers[batch].items():
            if got[name].shape != wanted.shape:
                return float("inf")
            span = max(float(np.abs(wanted).max()), 1e-6)
            gap = np.abs(got[name].astype(np.float64) - wanted) / span
            worst = max(worst, float(np.nan_to_num(gap, nan=np.inf).max()))
        return worst


def _noise(spec: TensorSpec, batch: int, random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 256, [n or batch for n in spec.shape]).astype(spec.dtype)


def latency_ms(engine: Engine, inputs: Arrays, seconds: float) -> dict[str, float | None]:
    """One request after the other, each waited for, copies included."""
    engine.infer(inputs)
    taken = []
    end = time.perf_counter() + seconds
    while len(taken) < _FEWEST or time.perf_counter() < end:
        began = time.perf_counter()
        engine.infer(inputs)
        taken.append((time.perf_counter() - began) * 1e3)
    return percentiles(taken)


def throughput(engine: Engine, inputs: Arrays, batch: int, seconds: float) -> float:
    """Examples a second with as many requests in flight as the engine takes.

    Raises:
        EngineError: a request broke, or none came back.
    """
    chain = _Chain(engine, inputs, seconds)
    return chain.run() * batch


class _Chain:
    """Requests that start one another until the time is over."""

    def __init__(self, engine: Engine, inputs: Arrays, seconds: float) -> None:
        self._engine, self._inputs, self._seconds = engine, inputs, seconds
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._flying = engine.depth
        self._done = 0
        self._last = 0.0
        self._error: EngineError | None = None

    def run(self) -> float:
        """Requests a second."""
        began = time.perf_counter()
        self._until = began + self._seconds
        for _ in range(self._engine.depth):
            self._engine.start(self._inputs, self._next)
        if not self._ended.wait(self._seconds + _DEADLINE_S):
            raise EngineError("no request came back; the GPU hangs")
        if self._error is not None:
            raise self._error
        return self._done / (self._last - began)

    def _next(self, result: dict[str, np.ndarray] | EngineError) -> None:
        now = time.perf_counter()
        with self._lock:
            self._done += 1
            self._last = now
            if isinstance(result, EngineError):
                self._error = result
            again = now < self._until and self._error is None
            self._flying -= not again
            over = self._flying == 0
        if again:
            self._engine.start(self._inputs, self._next)
        elif over:
            self._ended.set()


def measure(
    path: Path,
    oracle: Oracle,
    *,
    device: str,
    precision: str | None,
    batch: int,
    streams: int,
    threads: int,
    seconds: float,
) -> dict[str, Value]:
    """Load a network for one batch size, compare and time it.

    Raises:
        EngineError: the engine can't be built or breaks.
    """
    began = time.perf_counter()
    engine = load_engine(
        path, device=device, precision=precision, batch=batch, streams=streams, threads=threads
    )
    loaded_s = time.perf_counter() - began
    try:
        inputs = oracle.inputs(batch)
        difference = oracle.difference(engine, batch)
        latency = latency_ms(engine, inputs, seconds)
        return {
            "library": f"{engine.name} {engine.version}",
            "load_s": round(loaded_s, 3),
            "difference": difference,
            "latency_ms": latency,
            "per_s": round(throughput(engine, inputs, batch, seconds), 1),
        }
    finally:
        engine.close()


def unfit(inputs: Sequence[TensorSpec], batch: int) -> str | None:
    """Why a network can't be measured with this batch size, or None if it can."""
    if any(None in spec.shape[1:] for spec in inputs):
        return "the sizes of its input are free"
    lengths = {spec.shape[0] for spec in inputs if spec.shape}
    return "the graph has another batch size" if lengths - {None, batch} else None
