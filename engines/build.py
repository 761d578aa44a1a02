"""Turn an ONNX network into a TensorRT engine of this machine, once; the cache keeps it.

Imports TensorRT and CUDA only when asked to build. Safe to call from several processes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.cache import EngineCache

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
"""fp32 is exact; tf32 lets tensor cores round the factors of fp32 to 10 bits."""

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, 0..1; on any thread."""


@dataclass(frozen=True, slots=True)
class EnginePath:
    """An engine that is ready to be loaded on this machine."""

    path: Path
    precision: str
    built: bool
    """False if the cache had it already."""
    seconds: float
    """What it took, finding or building."""


def build(
    onnx_path: str | Path,
    *,
    device: str = "cuda:0",
    precision: str | None = None,
    batches: Sequence[int] = (1,),
    workspace_mb: int | None = None,
    version_compatible: bool = False,
    progress: Progress | None = None,
    cache: EngineCache | None = None,
) -> EnginePath:
    """Build an engine, or find it in the cache.

    Args:
        onnx_path: ONNX file of opset 17 or lower.
        device: "cuda" or "cuda:<index>".
        precision: one of PRECISIONS; None takes the graph's own. fp16 and bf16 rewrite the graph
            (needs the onnx package); int8 needs a graph with Q/DQ nodes.
        batches: batch sizes that the engine is tuned for; every size up to the largest runs.
        workspace_mb: GPU memory that a layer may use for scratch; None is all that is free.
        version_compatible: let later releases of the same major version run it, a little slower.
        progress: hears of phases and their progress.
        cache: None is the user's own.

    Raises:
        ModelError: no ONNX file, damaged, or a graph that TensorRT can't take; the text says why.
        EngineUnavailable: no TensorRT, no such GPU, or the cache can't be written.
        EngineFailed: the builder broke, such as for want of GPU memory; the cache is unharmed.
        ValueError: an option makes no sense.
    """
    raise NotImplementedError
