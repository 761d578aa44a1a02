"""Read from an ONNX file how an action recogniser is fed and read; no picture is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine, TensorSpec
from engines.errors import ModelError

FAMILY = "streamer.off"
"""Value of the metadata key "family"."""

Scope = Literal["frame", "track"]
SCOPES: tuple[Scope, ...] = ("frame", "track")

PLANES, LOGITS = "planes", "logits"
BEFORE, AFTER = "before_", "after_"
"""Prefixes of the state's inputs and outputs; what follows is the same for each pair."""


@dataclass(frozen=True, slots=True)
class Signature:
    """How to feed a recogniser and how to read it."""

    classes: tuple[str, ...]
    background: str
    """The class that is no event."""
    scope: Scope
    rate: float
    """Samples a second of media time."""
    window: int
    """Samples that a score is the mean over."""
    lag: int
    """Samples that pass before the backbone's logits mean something; OFF's need `order` more."""
    order: int
    """Highest derivative in time that OFF looks at."""
    weights: NDArray[np.float32]
    """(1 + levels,) of the backbone's logits and of each level's in the fused score."""
    planes: TensorSpec
    states: tuple[TensorSpec, ...]
    """Inputs that hold what the sample before left, in the order of the graph."""

    @property
    def least(self) -> int:
        """Samples that the first score needs."""
        return self.lag + 1 + self.order

    @property
    def width(self) -> int:
        """Pixels across of the network's input."""
        return int(self.planes.shape[3] or 0)

    @property
    def height(self) -> int:
        """Pixels down of the network's input."""
        return int(self.planes.shape[2] or 0)

    @property
    def max_batch(self) -> int | None:
        """Streams that one request may hold; None for any number."""
        return self.planes.shape[0]

    @property
    def state_bytes(self) -> int:
        """Memory of one stream between two samples."""
        return sum(
            int(np.prod([n or 1 for n in spec.shape[1:]])) * spec.dtype.itemsize
            for spec in self.states
        )


def after(state: TensorSpec) -> str:
    """Name of the output that becomes this input of the next sample."""
    return AFTER + state.name[len(BEFORE) :]


def recognise(engine: Engine, where: str) -> Signature:
    """Find out whether an engine is an action recogniser, and which.

    Raises:
        ModelError: it is none, or its metadata, inputs and outputs don't fit together.
    """
    metadata = engine.metadata
    if metadata.get("family") != FAMILY:
        raise ModelError(
            f"{where}: family must be {FAMILY}, got {metadata.get('family', 'none')}; "
            "give a network that engines.off.export wrote"
        )
    try:
        classes = tuple(metadata["classes"].split(","))
        weights = np.array([float(w) for w in metadata["weights"].split(",")], np.float32)
        rate, window = float(metadata["rate"]), int(metadata["window"])
        lag, order = int(metadata["lag"]), int(metadata["order"])
        background, scope = metadata["background"], metadata["scope"]
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{where}: metadata must hold classes, background, scope, rate, window, lag, order "
            f"and weights, got a wrong or no {error}; export the network again"
        ) from error
    inputs = {spec.name: spec for spec in engine.inputs}
    outputs = {spec.name: spec for spec in engine.outputs}
    states = tuple(spec for name, spec in inputs.items() if name.startswith(BEFORE))
    wanted_in = {PLANES, *(spec.name for spec in states)}
    wanted_out = {LOGITS, *(after(spec) for spec in states)}
    if inputs.keys() != wanted_in or outputs.keys() != wanted_out or not states:
        raise ModelError(
            f"{where}: inputs must be {PLANES} and {BEFORE}*, outputs {LOGITS} and the same "
            f"{AFTER}*, got {sorted(inputs)} and {sorted(outputs)}; export the network again"
        )
    heads = tuple(outputs[LOGITS].shape[1:])
    if heads != (len(weights), len(classes)):
        raise ModelError(
            f"{where}: {LOGITS} must be {len(weights)} rows of {len(classes)} classes "
            f"({', '.join(classes)}), got {heads}; the class list doesn't fit the head"
        )
    if background not in (*classes, "") or scope not in SCOPES:
        raise ModelError(
            f"{where}: background must be a class and scope one of {', '.join(SCOPES)}, got "
            f"{background!r} and {scope!r}; export the network again"
        )
    return Signature(
        classes, background, scope, rate, window, lag, order, weights, inputs[PLANES], states
    )
