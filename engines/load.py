"""Turn a model file and the name of a device into the engine that runs it best here.

Imports no engine's library until it is asked for; a machine needs only the one that it uses.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from engines.base import Engine
from engines.errors import EngineUnavailable

DEVICES = re.compile(
    r"(?:(openvino|onnxruntime|tensorrt):)?(auto|cpu|gpu(?:\.\d+)?|npu|cuda(?::\d+)?)"
)
_RUNS = {
    "openvino": ("cpu", "gpu", "npu"),
    "onnxruntime": ("cpu", "cuda"),
    "tensorrt": ("cuda",),
}
_INSTALL = {"tensorrt": "'streamer[tensorrt]'"}


def load_engine(
    path: str | Path,
    *,
    device: str = "auto",
    streams: int = 1,
    threads: int = 1,
    precision: str | None = None,
    batch: int | None = None,
) -> Engine:
    """Load an ONNX network on a device.

    Args:
        path: ONNX file.
        device: "auto" and "cpu" take OpenVINO where it is installed, else ONNX Runtime; "gpu" and
            "npu" are Intel's; "cuda" or "cuda:<index>" is NVIDIA's and takes TensorRT where it is
            installed, else ONNX Runtime. A prefix such as "onnxruntime:" forces that library.
        streams: requests that run side by side.
        threads: CPU threads inside each.
        precision: None takes the graph's own, "auto" what is fastest on the device; "bf16" and
            "f16" only where the engine says so. TensorRT knows those of engines.build.PRECISIONS.
        batch: length of a free first axis, where it is known; None leaves it free, a little slower.

    Raises:
        EngineUnavailable: no installed library runs on that device; the text says what to install.
        ModelError: the file is missing, damaged or of unknown operators.
        ValueError: device, streams, threads or precision make no sense.
    """
    match = DEVICES.fullmatch(device.lower())
    if match is None:
        raise ValueError(
            f"device must be auto, cpu, gpu[.N], npu or cuda[:N], with openvino:, onnxruntime: or "
            f"tensorrt: before it to force a library, got {device!r}"
        )
    if min(streams, threads, 1 if batch is None else batch) < 1:
        raise ValueError(
            f"streams, threads and batch must be at least 1, got {streams}, {threads} and {batch}"
        )
    library = match[1] or choose_library(match[2])
    where = "cpu" if match[2] == "auto" else match[2]
    _require(library, where)
    if library == "openvino":
        from engines.openvino import OpenVinoEngine

        return OpenVinoEngine(
            path, device=where, streams=streams, threads=threads, precision=precision, batch=batch
        )
    if library == "tensorrt":
        try:
            from engines.tensorrt.engine import TensorRtEngine
        except (ImportError, OSError) as error:  # the wheel is there, libraries or driver are not
            raise EngineUnavailable(
                f"{device}: TensorRT can't be loaded ({error}); pip install 'streamer[tensorrt]', "
                "or put onnxruntime: before the device"
            ) from error
        return TensorRtEngine(
            path, device=where, streams=streams, threads=threads, precision=precision, batch=batch
        )
    from engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(
        path, device=where, streams=streams, threads=threads, precision=precision, batch=batch
    )


def choose_library(device: str) -> str:
    """Name the library that runs best on a device; a new engine joins the choice here."""
    if device.startswith("cuda"):
        return "tensorrt" if _installed("tensorrt") else "onnxruntime"
    if device in ("auto", "cpu"):
        return "openvino" if _installed("openvino") else "onnxruntime"
    return "openvino"


def _require(library: str, device: str) -> None:
    if not _installed(library):
        raise EngineUnavailable(
            f"{device}: needs {library}; pip install {_INSTALL.get(library, library)}"
        )
    runs = _RUNS[library]
    if not device.startswith(runs):
        raise EngineUnavailable(
            f"{device}: {library} runs on {', '.join(runs)}; drop the prefix to choose by device"
        )


def _installed(library: str) -> bool:
    return find_spec(library) is not None
