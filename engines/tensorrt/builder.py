"""Turn an ONNX graph into a serialised engine with TensorRT's builder; needs the GPU it is for.

Knows no cache. One call at a time a process: the cache sees to it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tensorrt as trt

from engines.errors import EngineError, EngineFailed, EngineUnavailable, ModelError
from engines.onnxgraph import GraphFacts
from engines.tensorrt.cuda import Device
from engines.tensorrt.library import LOG, RELEASE
from engines.tensorrt.profiles import Profile, shape_of
from engines.tensorrt.progress import Tally

_OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "insufficient workspace")


@dataclass(frozen=True, slots=True)
class Wish:
    """What to build."""

    graph: bytes
    facts: GraphFacts
    profiles: Sequence[Profile]
    exact: bool
    """fp32 stays fp32: tensor cores may not round it."""
    workspace_mb: int | None
    version_compatible: bool
    where: str


@dataclass(frozen=True, slots=True)
class Built:
    """A serialised engine, and the timings that its build has measured or found."""

    engine: bytes
    timings: bytes


def build_engine(wish: Wish, device: Device, timings: bytes, tally: Tally) -> Built:
    """Build; on Ctrl-C the builder is stopped where it listens (TensorRT 10 and later).

    Args:
        wish: what to build; its facts were checked.
        device: GPU to build for.
        timings: of earlier builds on it.
        tally: hears of progress.

    Raises:
        ModelError: the parser refuses the graph.
        EngineUnavailable: the library can't use this GPU at all.
        EngineFailed: the builder broke.
    """
    cancelled = threading.Event()

    def work() -> Built:
        device.select()
        return _build(wish, device, timings, tally, cancelled)

    with ThreadPoolExecutor(1, thread_name_prefix="builder") as pool:
        running = pool.submit(work)
        try:
            return running.result()
        except KeyboardInterrupt:
            cancelled.set()
            raise


def _build(
    wish: Wish, device: Device, timings: bytes, tally: Tally, cancelled: threading.Event
) -> Built:
    LOG.take_errors()
    try:
        builder = trt.Builder(LOG)
    except TypeError as error:  # its factory gave nothing
        raise EngineUnavailable(
            f"{wish.where}: TensorRT {RELEASE.text} can't use {device}: {LOG.take_errors()}; "
            "install the release that fits the driver, or use device cpu"
        ) from error
    network = builder.create_network(
        sum(
            1 << int(getattr(trt.NetworkDefinitionCreationFlag, flag))
            for flag in RELEASE.network_flags
        )
    )
    parser = trt.OnnxParser(network, LOG)  # holds the weights, so it lives until the end
    _parse(parser, wish)
    config = _configure(builder, wish)
    _use_timings(config, timings)
    if hasattr(trt, "IProgressMonitor"):
        monitor = _monitor(tally, cancelled)
        config.progress_monitor = monitor
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise _failure(wish, device)
    measured = config.get_timing_cache()
    return Built(bytes(serialised), bytes(measured.serialize()) if measured else b"")


def _parse(parser: trt.OnnxParser, wish: Wish) -> None:
    if not parser.parse(wish.graph):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise ModelError(
            f"{wish.where}: TensorRT {RELEASE.text} can't parse this network: "
            f"{' / '.join(errors) or LOG.take_errors()}; export it again with the operators that "
            "it documents, or load it with onnxruntime: before the device"
        )


def _configure(builder: trt.Builder, wish: Wish) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    if wish.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wish.workspace_mb << 20)
    flags = RELEASE.builder_flags(wish.facts, version_compatible=wish.version_compatible)
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if wish.exact:
        config.clear_flag(trt.BuilderFlag.TF32)
    for feature in RELEASE.preview_features:
        config.set_preview_feature(getattr(trt.PreviewFeature, feature), True)
    if any(None in spec.shape for spec in wish.facts.inputs):
        for profile in wish.profiles:
            shapes = builder.create_optimization_profile()
            for spec in (spec for spec in wish.facts.inputs if None in spec.shape):
                smallest, largest = (shape_of(spec, n) for n in (profile.smallest, profile.largest))
                shapes.set_shape(spec.name, smallest, largest, largest)
            config.add_optimization_profile(shapes)
    return config


def _use_timings(config: trt.IBuilderConfig, timings: bytes) -> None:
    """Start from what earlier builds have measured, or from nothing if the library refuses it."""
    for content in (timings, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def _failure(wish: Wish, device: Device) -> EngineError:
    """Say why the builder gave nothing."""
    reason = LOG.take_errors()
    free, total = (n / 1e9 for n in device.memory_bytes())
    largest = wish.profiles[-1].largest
    shapes = ", ".join(
        f"{s.name} {'x'.join(map(str, shape_of(s, largest)))}" for s in wish.facts.inputs
    )
    if any(words in reason.lower() for words in _OUT_OF_MEMORY):
        remedy = (
            f"{free:.1f} GB of {total:.1f} GB are free; build for smaller batches, give less "
            "workspace, or end what else uses the GPU"
        )
    else:
        remedy = "build for smaller batches or another precision, or try another release"
    return EngineFailed(
        f"{wish.where}: TensorRT {RELEASE.text} could not build an engine for {shapes} on "
        f"{device}: {reason}; {remedy}"
    )


def _monitor(tally: Tally, cancelled: threading.Event) -> trt.IProgressMonitor:
    """Make a monitor; its base class exists since TensorRT 10 only."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tally.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tally.step(phase_name, step)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            tally.finish(phase_name)

    return Monitor()
