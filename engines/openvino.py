"""Run an ONNX network with OpenVINO: on any x86 processor, an Intel GPU or an Intel NPU.

Each of `depth` streams has its own request and its own thread; the compiled network is kept in
the user's cache folder, so that the second start is faster than the first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

import numpy as np
import openvino as ov

from engines.base import Array, Arrays, Done, Flights, TensorSpec, check_arrays, zeros
from engines.errors import EngineFailed, EngineUnavailable, ModelError
from engines.onnxfile import read_metadata

Size = tuple[int | None, ...]
"""Height and width of a picture; nothing where a network takes one size alone."""
PRECISIONS = ("f32", "bf16", "f16", "auto")


class OpenVinoEngine:
    """One network compiled for one device of OpenVINO, and for each size of pictures that comes."""

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        streams: int = 1,
        threads: int = 1,
        precision: str | None = None,
        batch: int | None = None,
        cache: bool = True,
    ) -> None:
        """Read and compile a network.

        Args:
            path: ONNX file.
            device: "cpu", "gpu" or "npu", with an index where there are several ("gpu.1").
            streams: requests that run side by side; the depth of `start`.
            threads: CPU threads inside each stream.
            precision: "f32", "bf16", "f16", or "auto" for what OpenVINO finds fastest on the
                device; None is "f32", so that every machine computes the same.
            batch: length of a free first axis, where it is known; saves a seventh of the time.
            cache: keep the compiled network in $XDG_CACHE_HOME/streamer/openvino.

        Raises:
            ModelError: the file is missing, damaged, or has an operator that OpenVINO lacks.
            EngineUnavailable: OpenVINO sees no such device.
        """
        self.metadata: Mapping[str, str] = read_metadata(path)
        self.name, self.device, self.version = "openvino", device, ov.__version__.split("-")[0]
        self.depth = streams
        self.picture_step = int(self.metadata.get("picture_step", 0))
        self._where = f"openvino {device}: {Path(path).name}"
        core = ov.Core()
        kind = device.upper()
        if not any(kind in (seen, seen.split(".")[0]) for seen in core.available_devices):
            raise EngineUnavailable(
                f"openvino: device must be one of {[d.lower() for d in core.available_devices]}, "
                f"got {device!r}; install the driver of that device, or use cpu"
            )
        options = _options(kind, streams, threads, precision or "f32", cache)

        def compiled(size: Size) -> ov.CompiledModel:
            model = core.read_model(path)
            model.reshape({port: _shape(port, batch, size) for port in model.inputs})
            return core.compile_model(model, kind, options)

        try:
            whole = compiled(())
        except RuntimeError as error:
            raise ModelError(
                f"{path}: OpenVINO can't compile this network: {_reason(error)}; "
                "export it again with known operators, or load it with onnxruntime:cpu"
            ) from error
        self.inputs = tuple(_spec(port) for port in whole.inputs)
        self.outputs = tuple(_spec(port) for port in whole.outputs)
        self._compiled, self._lock = compiled, Lock()
        self._requests: dict[Size, SimpleQueue[ov.InferRequest]] = {}
        if not self.picture_step:  # else the sizes that come are seldom the whole one
            self._requests[()] = self._requests_of(whole)
        self._flights = Flights(streams, self._where)
        self._closed = False

    def infer(self, arrays: Arrays) -> dict[str, Array]:
        """Run once; waits for a free stream. See Engine.infer."""
        self._check(arrays)
        return self._run(arrays)

    def start(self, arrays: Arrays, done: Done) -> None:
        """Run in the background. See Engine.start."""
        self._check(arrays)
        self._flights.start(lambda: self._run(arrays), done)

    def warm_up(self) -> None:
        """Run once on zeros, unless the size is still to come. See Engine.warm_up."""
        if not self.picture_step:
            self.infer(zeros(self.inputs))

    def close(self) -> None:
        """Wait for what is in flight and let go of the network."""
        self._flights.close()
        self._closed = True
        self._requests = {}

    def _check(self, arrays: Arrays) -> None:
        specs = self.inputs
        if self.picture_step:
            specs = tuple(
                _smaller(spec, arrays.get(spec.name), self.picture_step) for spec in specs
            )
        check_arrays(self._where, specs, arrays)

    def _size_of(self, shape: tuple[int | None, ...]) -> Size:
        return shape[2:] if self.picture_step else ()

    def _requests_of(self, compiled: ov.CompiledModel) -> SimpleQueue[ov.InferRequest]:
        requests: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(self.depth):
            requests.put(compiled.create_infer_request())
        return requests

    def _requests_for(self, size: Size) -> SimpleQueue[ov.InferRequest]:
        """Requests for pictures of this size; the first of a size compiles the network for it."""
        with self._lock:
            if size not in self._requests:
                self._requests[size] = self._requests_of(self._compiled(size))
            return self._requests[size]

    def _run(self, arrays: Arrays) -> dict[str, Array]:
        if self._closed:
            raise EngineFailed(f"{self._where}: the engine is closed; load it again")
        try:
            requests = self._requests_for(self._size_of(arrays[self.inputs[0].name].shape))
        except RuntimeError as error:
            raise EngineFailed(
                f"{self._where}: pictures of this size don't compile: {_reason(error)}; "
                "load it with onnxruntime:cpu, which takes them whole"
            ) from error
        request = requests.get()
        try:
            given = request.infer(dict(arrays), share_inputs=True)  # copies of its outputs
            return {
                spec.name: array for spec, array in zip(self.outputs, given.values(), strict=True)
            }
        except RuntimeError as error:
            raise EngineFailed(f"{self._where}: inference broke: {_reason(error)}") from error
        finally:
            requests.put(request)


def cache_folder() -> Path:
    """Where compiled networks are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "streamer" / "openvino"


def _options(
    kind: str, streams: int, threads: int, precision: str, cache: bool
) -> dict[str, str | int | bool]:
    if precision not in PRECISIONS:
        raise ValueError(f"openvino: precision must be one of {PRECISIONS}, got {precision!r}")
    options: dict[str, str | int | bool] = {}
    if precision != "auto":
        options["INFERENCE_PRECISION_HINT"] = precision
    if kind == "CPU":
        options |= {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads,
            "ENABLE_CPU_PINNING": False,  # two pinned processes would share cores and leave others
        }
    if cache:
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return options  # a read-only home costs a slower start, not the run
        options["CACHE_DIR"] = str(folder)
    return options


def devices() -> tuple[str, ...]:
    """Name the devices that OpenVINO finds on this machine."""
    return tuple(ov.Core().available_devices)


def _shape(port: ov.Output, batch: int | None, size: Size) -> ov.PartialShape:
    shape = port.get_partial_shape()
    if batch is not None and len(shape) and shape[0].is_dynamic:
        shape[0] = batch
    for axis, length in enumerate(size, 2):
        shape[axis] = length
    return shape


def _smaller(spec: TensorSpec, array: Array | None, step: int) -> TensorSpec:
    """The spec with the picture's size of an array, if that is a smaller one."""
    size = () if array is None else array.shape[2:]
    if len(size) != len(spec.shape[2:]) or any(
        most is None or n > most or n % step or not n
        for n, most in zip(size, spec.shape[2:], strict=True)
    ):
        return spec
    return replace(spec, shape=(*spec.shape[:2], *size))


def _spec(port: ov.ConstOutput) -> TensorSpec:
    shape = port.get_partial_shape()
    lengths = tuple(None if n.is_dynamic else n.get_length() for n in shape)
    return TensorSpec(port.get_any_name(), lengths, np.dtype(port.get_element_type().to_dtype()))


def _reason(error: RuntimeError) -> str:
    """Return the last line of OpenVINO's message that says something."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    return lines[-1] if lines else "no reason given"
