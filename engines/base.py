"""Say what every engine looks like: named arrays in, named arrays out; imports numpy alone.

Knows no network and no library that runs one. An engine may be used by several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError, EngineFailed, EngineMismatch

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Done = Callable[["dict[str, Array] | EngineError"], None]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and element type of one input or output; None is an axis of any length."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.name} {_shape_text(self.shape)} {self.dtype}"


class Engine(Protocol):
    """One network that is ready to run."""

    @property
    def name(self) -> str:
        """Library that runs the network, such as "openvino"."""

    @property
    def device(self) -> str:
        """Where it runs, such as "cpu" or "cuda:0"."""

    @property
    def version(self) -> str:
        """Version of the library."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the model file says about itself (ONNX metadata_props)."""

    @property
    def depth(self) -> int:
        """Requests that may be in flight at once through start."""

    @property
    def picture_step(self) -> int:
        """Pictures may be smaller than `inputs` say, by multiples of so many pixels; 0: not at
        all."""

    def infer(self, arrays: Arrays) -> dict[str, Array]:
        """Run the network once and wait.

        Args:
            arrays: one C-contiguous array for each of `inputs`, by name.

        Returns:
            Fresh arrays by the names of `outputs`.

        Raises:
            EngineMismatch: names or shapes differ from `inputs` (a wrong dtype is a TypeError).
            EngineFailed: the library broke, or the engine is closed.
        """

    def start(self, arrays: Arrays, done: Done) -> None:
        """Run the network in the background; the arrays must stay as they are until `done`.

        Args:
            arrays: as for infer.
            done: called once, on a thread of the engine, with the outputs or the error. It may
                call start; what it raises is lost, so it should not raise.

        Raises:
            EngineMismatch: as for infer.
            EngineError: more than `depth` requests would be in flight; nothing was started.
        """

    def warm_up(self) -> None:
        """Run once on zeros (free axes have length 1), so that the first real frame isn't slow."""

    def close(self) -> None:
        """Wait for what is in flight and let go of the network; safe to call twice."""


def check_arrays(where: str, specs: Sequence[TensorSpec], arrays: Arrays) -> None:
    """Refuse arrays that are not what the engine was built for.

    Raises:
        EngineMismatch: a name is missing or unknown, or a shape differs; both are quoted.
        TypeError: an element type differs; nothing is converted silently.
    """
    wanted = {spec.name for spec in specs}
    if wanted != arrays.keys():
        raise EngineMismatch(
            f"{where}: inputs must be {', '.join(map(str, specs))}, got {sorted(arrays)}; "
            "name each array as the engine's `inputs` do"
        )
    for spec in specs:
        array = arrays[spec.name]
        if array.dtype != spec.dtype:
            raise TypeError(
                f"{where}: {spec.name} must be {spec.dtype}, got {array.dtype}; "
                f"convert it with .astype({str(spec.dtype)!r})"
            )
        fits = len(array.shape) == len(spec.shape) and all(
            want in (None, got) for want, got in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise EngineMismatch(
                f"{where}: {spec.name} must have shape {_shape_text(spec.shape)}, "
                f"got {_shape_text(array.shape)}; scale or batch the input to fit"
            )


def with_batch(spec: TensorSpec, batch: int | None) -> TensorSpec:
    """Fix a free first axis; None leaves it free."""
    if batch is None or not spec.shape or spec.shape[0] is not None:
        return spec
    return replace(spec, shape=(batch, *spec.shape[1:]))


def zeros(specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """One array of zeros for each spec; axes of any length get length 1."""
    return {spec.name: np.zeros([n or 1 for n in spec.shape], spec.dtype) for spec in specs}


def _shape_text(shape: Sequence[int | None]) -> str:
    return "x".join("?" if n is None else str(n) for n in shape) or "scalar"


class Flights:
    """Run up to `depth` calls in the background, each on its own thread; refuse more."""

    def __init__(self, depth: int, where: str) -> None:
        self.depth = depth
        self._where = where
        self._pool = ThreadPoolExecutor(depth, thread_name_prefix="engine")
        self._lock = Lock()
        self._flying = 0

    def start(self, call: Callable[[], dict[str, Array]], done: Done) -> None:
        """Run the call on a thread of the pool and hand its result or error to `done`."""
        with self._lock:
            if self._flying >= self.depth:
                raise EngineError(
                    f"{self._where}: at most {self.depth} requests may be in flight; "
                    "wait for a done, or load the engine with more streams"
                )
            self._flying += 1
        try:
            self._pool.submit(self._run, call, done)
        except RuntimeError as error:  # the pool was shut down
            self._land()
            raise EngineFailed(f"{self._where}: the engine is closed; load it again") from error

    def close(self) -> None:
        """Wait for the calls in flight and refuse new ones."""
        self._pool.shutdown(wait=True)

    def _run(self, call: Callable[[], dict[str, Array]], done: Done) -> None:
        result: dict[str, Array] | EngineError
        try:
            result = call()
        except EngineError as error:
            result = error
        self._land()  # before done, so that done may start the next one
        done(result)

    def _land(self) -> None:
        with self._lock:
            self._flying -= 1
