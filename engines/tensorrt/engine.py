"""Run an ONNX network with TensorRT on an NVIDIA GPU; built at first, from the cache after that.

Each of `depth` requests in flight has its own stream, memory and execution contexts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import tensorrt as trt

from engines.base import Array, Arrays, Done, Flights, TensorSpec, check_arrays, zeros
from engines.build import Progress, build, device_index
from engines.cache import EngineCache
from engines.errors import EngineError, EngineFailed, EngineMismatch, ModelError
from engines.onnxfile import read_metadata
from engines.onnxgraph import read_graph
from engines.tensorrt.cuda import Device
from engines.tensorrt.lane import Lane, Tensor
from engines.tensorrt.library import LOG, RELEASE
from engines.tensorrt.profiles import Profile, choose

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""By the names of trt.DataType; the library's own nptype breaks on some releases of numpy."""


class TensorRtEngine:
    """One network on one GPU."""

    picture_step = 0

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cuda:0",
        streams: int = 1,
        threads: int = 1,
        precision: str | None = None,
        batch: int | None = None,
        batches: Sequence[int] | None = None,
        workspace_mb: int | None = None,
        version_compatible: bool = False,
        graphs: bool = True,
        progress: Progress | None = None,
        cache: EngineCache | None = None,
    ) -> None:
        """Find or build the engine of a network, and reserve all memory that it needs.

        Args:
            path: ONNX file.
            device: "cuda" or "cuda:<index>".
            streams: requests that run side by side; the depth of `start`.
            threads: has no meaning here.
            precision: as for engines.build.build; "auto" is fp16, or the graph's own if lower.
            batch: the only length of a free first axis that will be asked for; then its work is
                replayed as a graph.
            batches: as for engines.build.build, where there are several.
            workspace_mb, version_compatible: as for engines.build.build.
            graphs: replay the work of fixed shapes as CUDA graphs.
            progress: hears of a build.
            cache: None is the user's own.

        Raises:
            ModelError, EngineUnavailable, EngineFailed, ValueError: as for engines.build.build.
        """
        del threads
        self.metadata: Mapping[str, str] = read_metadata(path)
        self.name, self.device, self.version = "tensorrt", device, RELEASE.text
        self.depth = streams
        self._where = f"tensorrt {device}: {Path(path).name}"
        gpu = Device(device_index(device), self._where)  # first: the library breaks without one
        self._runtime = trt.Runtime(LOG)
        if version_compatible:  # such an engine brings code of its own; the cache vouches for it
            self._runtime.engine_host_code_allowed = True
        for _ in range(2):
            compiled = build(
                path,
                device=device,
                precision=precision,
                batches=batches if batch is None or not _free(path) else (batch,),
                workspace_mb=workspace_mb,
                version_compatible=version_compatible,
                progress=progress,
                cache=cache,
            )
            engine = self._runtime.deserialize_cuda_engine(compiled.engine)
            if engine is not None or compiled.built:
                break
            compiled.path.unlink(missing_ok=True)  # whole, of our key, and still not for this GPU
        if engine is None:
            raise EngineFailed(
                f"{self._where}: TensorRT {RELEASE.text} can't load what it has built: "
                f"{LOG.take_errors()}; install the release that fits the driver"
            )
        self.precision = compiled.precision
        self._profiles: tuple[Profile, ...] = compiled.profiles
        tensors = _tensors(engine, compiled.facts.inputs, compiled.facts.outputs, self._where)
        only = self._profiles[0].largest if [p.fixed for p in self._profiles] == [True] else None
        self.inputs = tuple(_spec(t, engine, only) for t in tensors if t.is_input)
        self.outputs = tuple(_spec(t, engine, only) for t in tensors if not t.is_input)
        self._engine: trt.ICudaEngine | None = engine
        self._lanes: SimpleQueue[Lane] = SimpleQueue()
        self._gpu = gpu
        try:
            for _ in range(streams):
                lane = Lane(engine, tensors, self._profiles, gpu, self._where, graphs=graphs)
                self._lanes.put(lane)
        except EngineError:
            self._close_lanes(self._lanes.qsize())
            raise
        self.recorded = lane.recorded
        """Profiles whose work is replayed as a graph."""
        self._flights = Flights(streams, self._where)

    def infer(self, arrays: Arrays) -> dict[str, Array]:
        """Run once; waits for a free stream. See Engine.infer."""
        self._check(arrays)
        return self._run(arrays)

    def start(self, arrays: Arrays, done: Done) -> None:
        """Run in the background. See Engine.start."""
        self._check(arrays)
        self._flights.start(lambda: self._run(arrays), done)

    def warm_up(self) -> None:
        """Run each profile once on zeros. See Engine.warm_up."""
        for profile in self._profiles:
            self.infer(zeros([_with_batch(spec, profile.largest) for spec in self.inputs]))

    def close(self) -> None:
        """Wait for what is in flight and give the GPU's memory back."""
        self._flights.close()
        if self._engine is not None:
            self._engine = None
            self._close_lanes(self.depth)

    def _check(self, arrays: Arrays) -> None:
        check_arrays(self._where, self.inputs, arrays)
        sizes = {len(arrays[s.name]) for s in self.inputs if s.shape[0] is None}
        if len(sizes) > 1:
            raise EngineMismatch(
                f"{self._where}: inputs must have one batch size, got {sorted(sizes)}; "
                "give each input the same number of pictures"
            )
        for size in sizes:
            choose(self._profiles, size, self._where)

    def _run(self, arrays: Arrays) -> dict[str, Array]:
        lane = self._lanes.get()
        try:
            if self._engine is None:
                raise EngineFailed(f"{self._where}: the engine is closed; load it again")
            return lane.run(arrays)
        finally:
            self._lanes.put(lane)

    def _close_lanes(self, count: int) -> None:
        lanes = [self._lanes.get() for _ in range(count)]  # waits for what other threads run
        for lane in lanes:
            lane.close()
            self._lanes.put(lane)  # for those who come late, to be told so


def _free(path: str | Path) -> bool:
    """True if a network takes any number of examples."""
    facts = read_graph(Path(path).read_bytes(), str(path))
    return any(spec.shape[:1] == (None,) for spec in facts.inputs)


def _tensors(
    engine: trt.ICudaEngine, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], where: str
) -> tuple[Tensor, ...]:
    """Match the engine's tensors with those of the ONNX file, in the file's order."""
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    tensors = []
    for spec in (*inputs, *outputs):
        kind = engine.get_tensor_dtype(spec.name).name if spec.name in names else "nothing"
        if kind not in _DTYPES:
            raise ModelError(
                f"{where}: {spec} must be of {', '.join(_DTYPES.values())} in the engine, got "
                f"{kind}; cast it inside the graph"
            )
        is_input = engine.get_tensor_mode(spec.name) == trt.TensorIOMode.INPUT
        tensors.append(Tensor(spec, np.dtype(_DTYPES[kind]), is_input))
    return tuple(tensors)


def _spec(tensor: Tensor, engine: trt.ICudaEngine, only: int | None) -> TensorSpec:
    """Say what users see: lengths of outputs come from the engine, which knows them better."""
    if tensor.is_input:
        shape = tensor.spec.shape
    else:
        lengths = tuple(engine.get_tensor_shape(tensor.spec.name))
        shape = tuple(None if length < 0 else length for length in lengths)
    return _with_batch(replace(tensor.spec, shape=shape), only)


def _with_batch(spec: TensorSpec, batch: int | None) -> TensorSpec:
    return replace(spec, shape=tuple(batch if length is None else length for length in spec.shape))
