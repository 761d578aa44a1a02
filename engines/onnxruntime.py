"""Run an ONNX network with ONNX Runtime: on any processor, or on an NVIDIA GPU with its CUDA build.

The engine that every machine has, and the oracle that the others are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engines.base import (
    Array,
    Arrays,
    Done,
    Flights,
    TensorSpec,
    check_arrays,
    with_batch,
    zeros,
)
from engines.errors import EngineFailed, EngineUnavailable, ModelError
from engines.onnxfile import read_metadata

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_WARNINGS_ARE_NOISE = 3  # ONNX Runtime's log level that shows errors alone


class OnnxRuntimeEngine:
    """One network in one ONNX Runtime session, which several threads may use at once."""

    picture_step = 0

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        streams: int = 1,
        threads: int = 1,
        precision: str | None = None,
        batch: int | None = None,
    ) -> None:
        """Read and optimise a network.

        Args:
            path: ONNX file.
            device: "cpu", "cuda" or "cuda:<index>".
            streams: requests that may run side by side; the depth of `start`.
            threads: CPU threads inside each request.
            precision: None, "f32" or "auto", all the graph's own; another one belongs into it.
            batch: length of a free first axis, where it is known; others are refused then.

        Raises:
            ModelError: the file is missing, damaged, or has an operator that is not known here.
            EngineUnavailable: this build of ONNX Runtime has no such device.
        """
        if precision not in (None, "f32", "auto"):
            raise ValueError(
                f"onnxruntime: precision must be f32 or auto, got {precision!r}; "
                "export a graph of that precision instead"
            )
        self.metadata: Mapping[str, str] = read_metadata(path)
        self.name, self.device, self.version = "onnxruntime", device, ort.__version__
        self.depth = streams
        self._where = f"onnxruntime {device}: {Path(path).name}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _WARNINGS_ARE_NOISE
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared
        providers = _providers(device)
        try:
            session = ort.InferenceSession(str(path), options, providers=providers)
        except (RuntimeError, *_LOAD_ERRORS) as error:
            raise ModelError(
                f"{path}: ONNX Runtime can't load this network: {_reason(error)}; "
                "export it again with operators of opset 17"
            ) from error
        self.inputs = tuple(with_batch(_spec(node), batch) for node in session.get_inputs())
        self.outputs = tuple(with_batch(_spec(node), batch) for node in session.get_outputs())
        self._session: ort.InferenceSession | None = session
        self._flights = Flights(streams, self._where)

    def infer(self, arrays: Arrays) -> dict[str, Array]:
        """Run once on the caller's thread. See Engine.infer."""
        check_arrays(self._where, self.inputs, arrays)
        return self._run(arrays)

    def start(self, arrays: Arrays, done: Done) -> None:
        """Run in the background. See Engine.start."""
        check_arrays(self._where, self.inputs, arrays)
        self._flights.start(lambda: self._run(arrays), done)

    def warm_up(self) -> None:
        """Run once on zeros. See Engine.warm_up."""
        self.infer(zeros(self.inputs))

    def close(self) -> None:
        """Wait for what is in flight and let go of the network."""
        self._flights.close()
        self._session = None

    def _run(self, arrays: Arrays) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise EngineFailed(f"{self._where}: the engine is closed; load it again")
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, session.run(names, dict(arrays)), strict=True))
        except (RuntimeError, *_RUN_ERRORS) as error:
            raise EngineFailed(f"{self._where}: inference broke: {_reason(error)}") from error


_state = ort.capi.onnxruntime_pybind11_state
_LOAD_ERRORS = (
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NotImplemented,
    _state.Fail,
    _state.InvalidArgument,
    _state.RuntimeException,
)
_RUN_ERRORS = (_state.Fail, _state.InvalidArgument, _state.RuntimeException)


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise EngineUnavailable(
            f"onnxruntime: {device} needs a build with CUDA, this one has "
            f"{ort.get_available_providers()}; pip install onnxruntime-gpu, or use device cpu"
        )
    index = device.partition(":")[2] or "0"
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


def devices() -> tuple[str, ...]:
    """Name the execution providers of this build of ONNX Runtime."""
    return tuple(ort.get_available_providers())


def _spec(node: ort.NodeArg) -> TensorSpec:
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    if node.type not in _DTYPES:
        raise ModelError(
            f"{node.name}: type must be one of {sorted(_DTYPES)}, got {node.type}; "
            "export the network with tensors of these types"
        )
    return TensorSpec(node.name, shape, np.dtype(_DTYPES[node.type]))


def _reason(error: Exception) -> str:
    return str(error).rpartition(" : ")[2].strip() or type(error).__name__
