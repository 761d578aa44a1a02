"""Choose for which batch sizes an engine is tuned, and which tuning serves a request.

Numbers alone. A profile covers the sizes above the one before it, up to its own, for which it is
tuned; one that covers a single size has fixed shapes, so its work can be replayed as one graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engines.base import TensorSpec
from engines.errors import EngineMismatch, ModelError

FREE_BATCHES = (1, 8, 32)
"""What an engine is tuned for where nothing is said of batch sizes."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Batch sizes that one tuning serves."""

    smallest: int
    largest: int
    """The size that it is tuned for."""

    @property
    def fixed(self) -> bool:
        """It serves one size alone."""
        return self.smallest == self.largest


def make_profiles(
    inputs: Sequence[TensorSpec], batches: Iterable[int] | None, where: str
) -> tuple[Profile, ...]:
    """Cut the batch sizes 1 to the largest into profiles.

    Args:
        inputs: of the network; its first axes are free, or have one length.
        batches: sizes to tune for; a single one is the only one that is served. None is the
            graph's own, or FREE_BATCHES.
        where: name of the network, for errors.

    Raises:
        ModelError: the network's batch size is fixed to another one.
        ValueError: a size is below 1, or there is none.
    """
    lengths = {spec.shape[0] for spec in inputs}
    length = None if None in lengths else max(n for n in lengths if n is not None)
    sizes = sorted(set(batches if batches is not None else [length] if length else FREE_BATCHES))
    if not sizes or sizes[0] < 1:
        raise ValueError(f"batch sizes must be at least 1, got {sizes}")
    if length is not None:
        if sizes != [length]:
            raise ModelError(
                f"{where}: batch must be {length}, as the graph says, got {sizes}; build it for "
                f"{length}, or export the network with a free batch axis"
            )
        return (Profile(length, length),)
    if len(sizes) == 1:
        return (Profile(sizes[0], sizes[0]),)
    starts = [1, *(size + 1 for size in sizes)]
    return tuple(Profile(*pair) for pair in zip(starts, sizes, strict=False))


def shape_of(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    """Lengths of a tensor at a batch size."""
    return tuple(batch if length is None else length for length in spec.shape)


def shapes_text(inputs: Sequence[TensorSpec], profiles: Sequence[Profile]) -> str:
    """Name the inputs and the batch sizes in an engine's key."""
    ranges = ",".join(f"{profile.smallest}-{profile.largest}" for profile in profiles)
    return f"{'; '.join(map(str, inputs))}; batch {ranges}"


def choose(profiles: Sequence[Profile], batch: int, where: str) -> int:
    """Index of the profile that serves a batch size.

    Raises:
        EngineMismatch: none does.
    """
    for index, profile in enumerate(profiles):
        if profile.smallest <= batch <= profile.largest:
            return index
    sizes = ", ".join(
        str(p.largest) if p.fixed else f"{p.smallest} to {p.largest}" for p in profiles
    )
    raise EngineMismatch(
        f"{where}: batch must be {sizes}, got {batch}; send smaller batches, or build the engine "
        f"for {batch} too"
    )
