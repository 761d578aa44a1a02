"""What every engine must do, run on each implementation by tests/test_engines.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.base import Engine
from engines.errors import EngineError, EngineFailed, EngineMismatch

Load = Callable[[Path, int], Engine]
DEADLINE_S = 30


class Collect:
    """A `done` that keeps results and can be waited for."""

    def __init__(self, count: int) -> None:
        self.results: list[Any] = []
        self._left = count
        self._lock = threading.Lock()
        self._all = threading.Event()

    def __call__(self, result: Any) -> None:
        with self._lock:
            self.results.append(result)
            self._left -= 1
            if self._left == 0:
                self._all.set()

    def wait(self) -> list[Any]:
        assert self._all.wait(DEADLINE_S), "the engine never called done"
        return self.results


def check_engine(
    load: Load,
    model: Path,
    expected: Callable[[np.ndarray], np.ndarray],
    *,
    device: str = "cpu",
) -> None:
    """Hold one engine against the contract.

    Args:
        load: makes the engine from a file and a number of streams.
        model: network with input "x" (?x3x4x5 float32), output "y", metadata {"colour": "blue"}.
        expected: what the network computes.
        device: where the engine says that it runs.
    """
    engine = load(model, 2)
    _says_what_it_is(engine, device)
    _computes(engine, expected)
    _gives_fresh_outputs(engine)
    _refuses_wrong_arrays(engine)
    _runs_in_the_background(engine, expected)
    _refuses_more_than_depth(engine)
    _may_start_from_done(engine)
    _closes(engine)


def _says_what_it_is(engine: Engine, device: str) -> None:
    assert engine.name
    assert engine.device == device
    assert engine.version[0].isdigit()
    assert engine.depth == 2
    assert [(s.name, s.shape, s.dtype) for s in engine.inputs] == [
        ("x", (None, 3, 4, 5), np.dtype("float32"))
    ]
    assert [s.name for s in engine.outputs] == ["y"]
    assert dict(engine.metadata) == {"colour": "blue"}


def _input(seed: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, 4, 5)).astype(np.float32)


def _computes(engine: Engine, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    engine.warm_up()
    for batch in (1, 3):
        x = _input(batch, batch)
        outputs = engine.infer({"x": x})
        assert list(outputs) == ["y"]
        np.testing.assert_allclose(outputs["y"], expected(x), rtol=1e-5, atol=1e-6)


def _gives_fresh_outputs(engine: Engine) -> None:
    first = engine.infer({"x": _input(1)})["y"]
    before = first.copy()
    engine.infer({"x": _input(2)})
    engine.infer({"x": _input(3)})
    np.testing.assert_array_equal(first, before)


def _refuses_wrong_arrays(engine: Engine) -> None:
    for call in (engine.infer, lambda arrays: engine.start(arrays, Collect(1))):
        with pytest.raises(EngineMismatch, match=r"inputs must be x \?x3x4x5 float32, got \['z'\]"):
            call({"z": _input(1)})
        with pytest.raises(EngineMismatch, match=r"x must have shape \?x3x4x5, got 1x3x4x6"):
            call({"x": np.zeros((1, 3, 4, 6), np.float32)})
        with pytest.raises(EngineMismatch, match=r"x must have shape \?x3x4x5, got 3x4x5"):
            call({"x": np.zeros((3, 4, 5), np.float32)})
        with pytest.raises(TypeError, match=r"x must be float32, got float64; .*astype"):
            call({"x": np.zeros((1, 3, 4, 5))})


def _runs_in_the_background(engine: Engine, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    inputs = [_input(seed) for seed in (1, 2)]
    collects = [Collect(1) for _ in inputs]
    for x, collect in zip(inputs, collects, strict=True):
        engine.start({"x": x}, collect)
    for x, collect in zip(inputs, collects, strict=True):
        np.testing.assert_allclose(collect.wait()[0]["y"], expected(x), rtol=1e-5, atol=1e-6)


def _refuses_more_than_depth(engine: Engine) -> None:
    held = threading.Event()
    finished = Collect(2)

    def hold(result: Any) -> None:
        assert held.wait(DEADLINE_S)
        finished(result)

    # A request has landed when its done is called, so the threads are busy but slots are free:
    # two more queue behind them, and the fifth is one too many.
    landed = Collect(2)
    for _ in range(2):
        engine.start({"x": _input(1)}, lambda result: (landed(result), hold(result)))
    landed.wait()
    queued = Collect(2)
    for _ in range(2):
        engine.start({"x": _input(1)}, queued)
    with pytest.raises(EngineError, match="at most 2 requests may be in flight; wait for a done"):
        engine.start({"x": _input(1)}, queued)
    held.set()
    finished.wait()
    assert len(queued.wait()) == 2


def _may_start_from_done(engine: Engine) -> None:
    chain = Collect(5)

    def again(result: Any) -> None:
        chain(result)
        if len(chain.results) < 5:
            engine.start({"x": _input(1)}, again)

    engine.start({"x": _input(1)}, again)
    assert all(isinstance(result, dict) for result in chain.wait())


def _closes(engine: Engine) -> None:
    last = Collect(1)
    engine.start({"x": _input(1)}, last)
    engine.close()
    engine.close()
    assert isinstance(last.wait()[0], dict), "close waits for what is in flight"
    with pytest.raises(EngineFailed, match="the engine is closed; load it again"):
        engine.infer({"x": _input(1)})
    with pytest.raises(EngineFailed, match="the engine is closed; load it again"):
        engine.start({"x": _input(1)}, last)
