"""Turn an ONNX network into a TensorRT engine of this machine, once; the cache keeps it.

Imports TensorRT and CUDA only when asked to build. Safe to call from several processes at once.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.cache import EngineCache, EngineKey
from engines.errors import EngineUnavailable, ModelError
from engines.onnxfile import read_metadata
from engines.onnxgraph import GraphFacts, read_graph
from engines.tensorrt.checks import check_graph
from engines.tensorrt.profiles import Profile, make_profiles, shapes_text
from engines.tensorrt.progress import Tally
from engines.tensorrt.release import Release

if TYPE_CHECKING:
    from engines.tensorrt.cuda import Device

_log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
"""fp32 is exact; tf32 lets tensor cores round the factors of fp32 to 10 bits."""

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, 0..1; on any thread."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """An engine that is ready to be loaded on this machine, and what is known of it."""

    engine: bytes
    """Serialised."""
    path: Path
    """In the cache."""
    precision: str
    facts: GraphFacts
    profiles: tuple[Profile, ...]
    built: bool
    """False if the cache had it already."""
    seconds: float
    """What it took, finding or building."""


def build(
    onnx_path: str | Path,
    *,
    device: str = "cuda:0",
    precision: str | None = None,
    batches: Sequence[int] | None = None,
    workspace_mb: int | None = None,
    version_compatible: bool = False,
    progress: Progress | None = None,
    cache: EngineCache | None = None,
) -> Compiled:
    """Build an engine, or find it in the cache.

    Args:
        onnx_path: ONNX file of opset 17 or lower.
        device: "cuda" or "cuda:<index>".
        precision: one of PRECISIONS; fp32 and None take the graph as it is, fp16 and bf16 rewrite
            one in fp32 (needs the onnx package), int8 needs one with Q/DQ nodes.
        batches: sizes that the engine is tuned for. Of several, every size up to the largest
            runs; a single one runs alone, and faster. None is 1, 8 and 32, or the graph's own.
            load_engine looks for None where its batch is None, and else for the single size.
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
    started = time.monotonic()
    index = device_index(device)
    path = Path(onnx_path)
    where = f"tensorrt {device}: {path.name}"
    if workspace_mb is not None and workspace_mb < 1:
        raise ValueError(f"workspace_mb must be at least 1, got {workspace_mb}")
    read_metadata(path)
    model = path.read_bytes()
    facts = read_graph(model, str(path))
    wanted = resolve_precision(precision, facts, str(path))
    profiles = make_profiles(facts.inputs, batches, str(path))
    release, gpu = _machine(index, where)
    check_graph(facts, release, str(path))
    if wanted in ("fp16", "bf16") and facts.precision == "fp32":
        model = _lower(model, wanted, str(path))
        facts = read_graph(model, str(path))
        check_graph(facts, release, str(path))
    report = progress or _silent
    key = EngineKey(
        graph=hashlib.sha256(model).hexdigest(),
        precision=wanted,
        shapes=shapes_text(facts.inputs, profiles),
        options=f"workspace {workspace_mb or 'all'}",
        library=release.key(version_compatible=version_compatible),
        gpu=str(gpu),
        driver=gpu.driver,
    )
    cache = cache or EngineCache()

    def build_it() -> bytes:
        from engines.tensorrt.builder import Wish, build_engine

        report(f"building {path.name} for {gpu.name}", 0.0)
        _log.info("%s: building an engine in %s, once; this can take minutes", where, wanted)
        wish = Wish(
            graph=model,
            facts=facts,
            profiles=profiles,
            exact=wanted == "fp32",
            workspace_mb=workspace_mb,
            version_compatible=version_compatible,
            where=where,
        )
        built = build_engine(wish, gpu, cache.find_timings(key), Tally(report))
        cache.store_timings(key, built.timings)
        return built.engine

    entry = cache.get_or_build(path.stem, key, build_it)
    report(f"{'built' if entry.built else 'found'} {entry.path.name}", 1.0)
    seconds = time.monotonic() - started
    return Compiled(
        entry.content, entry.path, wanted, facts, profiles, built=entry.built, seconds=seconds
    )


def device_index(device: str) -> int:
    """Read the number in "cuda:<index>".

    Raises:
        ValueError: the device is none of NVIDIA's.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise ValueError(
            f"device must be cuda or cuda:<index>, got {device!r}; other devices compile a network "
            "when it is loaded, so nothing is built for them"
        )
    return int(match[1] or 0)


def resolve_precision(precision: str | None, facts: GraphFacts, where: str) -> str:
    """Choose the precision to build.

    Args:
        precision: one of PRECISIONS, "f32" and "f16" for short; fp32 takes any graph as it is,
            as None does, and "auto" is fp16 for a graph in fp32.
        facts: of the graph.
        where: its name, for errors.

    Raises:
        ModelError: the graph can't be built in that precision.
        ValueError: there is no such precision.
    """
    own = facts.precision
    name = {"f32": own, "fp32": own, None: own, "f16": "fp16"}.get(precision, precision)
    if name == "auto":
        return "fp16" if own == "fp32" else own
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if name == "int8" and own != "int8":
        raise ModelError(
            f"{where}: graph must have Q/DQ nodes for precision int8, got {own}; quantise it "
            "first, with pictures like those that it will see"
        )
    if own not in ("fp32", name):
        raise ModelError(
            f"{where}: precision must be {own}, as the graph says, got {name}; build it without "
            "a precision, or export the network in fp32"
        )
    return name


def _machine(index: int, where: str) -> tuple[Release, Device]:
    """Import TensorRT and CUDA and take the GPU.

    Raises:
        EngineUnavailable: one of the three is missing.
    """
    # The GPU first: the library breaks without one.
    try:
        from engines.tensorrt.cuda import Device

        device = Device(index, where)
        from engines.tensorrt.library import RELEASE
    except (ImportError, OSError) as error:
        raise EngineUnavailable(
            f"{where}: needs TensorRT and cuda-python ({error}); pip install 'streamer[tensorrt]'"
        ) from error
    return RELEASE, device


def _lower(model: bytes, precision: str, where: str) -> bytes:
    try:
        from engines.precision import lower
    except ImportError as error:
        raise EngineUnavailable(
            f"{where}: needs onnx to rewrite the graph in {precision} ({error}); pip install "
            f"onnx, or give a graph that is {precision} already"
        ) from error
    return lower(model, precision, where)


def _silent(_: str, __: float) -> None:
    """Tell nobody."""
