"""Reach one NVIDIA GPU through CUDA's runtime: memory, streams, graphs; the home of cuda-python.

Every call that fails becomes one error with a remedy. Knows no network and no TensorRT. A thread
selects the device before it uses what belongs to it; a stream serves one thread at a time.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineFailed, EngineUnavailable

try:
    from cuda.bindings import runtime as cudart
except ImportError:  # cuda-python before 12.6
    from cuda import cudart

U8 = NDArray[np.uint8]

_RESTART = "restart the process: this error ends its use of the GPU"
_REMEDIES = {
    "cudaErrorMemoryAllocation": "use a smaller batch or fewer streams, or end what else uses the "
    "GPU (nvidia-smi lists it)",
    "cudaErrorIllegalAddress": _RESTART,
    "cudaErrorIllegalInstruction": _RESTART,
    "cudaErrorLaunchFailure": _RESTART,
    "cudaErrorLaunchTimeout": "use a smaller batch, or a GPU that drives no screen",
    "cudaErrorECCUncorrectable": "reset the GPU or the machine: its memory is damaged",
}
_OLD_DRIVER = "install an NVIDIA driver that is as new as cuda-python, or use device cpu"
_NO_GPU = {
    "cudaErrorNoDevice": "check with nvidia-smi that a GPU is seen, or use device cpu",
    "cudaErrorInsufficientDriver": _OLD_DRIVER,
    "cudaErrorCallRequiresNewerDriver": _OLD_DRIVER,
    "cudaErrorCompatNotSupportedOnDevice": _OLD_DRIVER,
    "cudaErrorStubLibrary": "install the NVIDIA driver, or use device cpu",
    "cudaErrorInvalidDevice": "choose one of the GPUs that nvidia-smi lists",
    "cudaErrorSystemDriverMismatch": "install drivers of one version, or restart the machine",
    "cudaErrorDevicesUnavailable": "end the program that holds the GPU for itself",
}
_DRIVER_FILES = ("/sys/module/nvidia/version", "/proc/driver/nvidia/version")


def check(where: str, doing: str, status: object) -> None:
    """Turn a status of CUDA into an error.

    Args:
        where: engine, device and network.
        doing: what was asked of the GPU, with sizes or shapes.
        status: cudaError_t.

    Raises:
        EngineUnavailable: there is no such GPU, or no driver for it.
        EngineFailed: anything else that went wrong.
    """
    if status == cudart.cudaError_t.cudaSuccess:
        return
    name = cudart.cudaGetErrorName(status)[1].decode()
    text = f"{where}: {doing}: {cudart.cudaGetErrorString(status)[1].decode()} ({name})"
    if name in _NO_GPU:
        raise EngineUnavailable(f"{text}; {_NO_GPU[name]}")
    remedy = _REMEDIES.get(name, "load the engine again, and restart the process if it comes back")
    raise EngineFailed(f"{text}; {remedy}")


class Device:
    """One GPU."""

    def __init__(self, index: int, where: str) -> None:
        """Take a GPU into use.

        Raises:
            EngineUnavailable: there is no such GPU, or no driver for it.
        """
        self.index = index
        self._where = where
        status, version = cudart.cudaDriverGetVersion()
        check(where, "reading the version of the driver", status)
        if version == 0:
            raise EngineUnavailable(
                f"{where}: an NVIDIA driver must be installed, got none; install it, or use "
                "device cpu"
            )
        self.select()
        status, properties = cudart.cudaGetDeviceProperties(index)
        check(where, f"reading the properties of GPU {index}", status)
        self.name: str = properties.name.decode()
        self.capability = f"{properties.major}.{properties.minor}"
        self.multiprocessors = int(properties.multiProcessorCount)
        cuda = f"CUDA {version // 1000}.{version % 1000 // 10}"
        self.driver = " ".join(filter(None, (_driver_version(), cuda)))

    def __str__(self) -> str:
        return f"{self.name} {self.capability} {self.multiprocessors} SM"

    def select(self) -> None:
        """Make this the GPU of the calling thread."""
        (status,) = cudart.cudaSetDevice(self.index)
        check(self._where, f"taking GPU {self.index}", status)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and all memory of the GPU."""
        status, free, total = cudart.cudaMemGetInfo()
        check(self._where, "reading the free memory", status)
        return free, total

    def allocate(self, size_bytes: int, what: str) -> int:
        """Reserve memory on the GPU; gives its address."""
        status, address = cudart.cudaMalloc(max(size_bytes, 1))
        check(self._where, f"reserving {size_bytes / 1e6:.1f} MB on the GPU for {what}", status)
        return int(address)

    def free(self, address: int) -> None:
        """Give memory on the GPU back."""
        cudart.cudaFree(address)  # fails only after an error that was reported where it happened

    def allocate_pinned(self, size_bytes: int, what: str) -> U8:
        """Reserve memory of the host that the GPU copies from and to by itself."""
        size = max(size_bytes, 1)
        status, address = cudart.cudaHostAlloc(size, cudart.cudaHostAllocDefault)
        check(self._where, f"pinning {size_bytes / 1e6:.1f} MB of the host for {what}", status)
        memory = (ctypes.c_uint8 * size).from_address(int(address))
        return np.frombuffer(memoryview(memory).cast("B"), np.uint8)

    def free_pinned(self, pinned: U8) -> None:
        """Give pinned memory back; no view of it may be used again."""
        cudart.cudaFreeHost(pinned.ctypes.data)


class Stream:
    """Work that the GPU does in order, beside that of other streams."""

    def __init__(self, where: str) -> None:
        self._where = where
        status, self._stream = cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)
        check(where, "making a stream", status)
        # A blocking event lets the waiting thread sleep; the usual wait keeps a core busy.
        flags = cudart.cudaEventBlockingSync | cudart.cudaEventDisableTiming
        status, self._reached = cudart.cudaEventCreateWithFlags(flags)
        check(where, "making an event", status)
        self.handle = int(self._stream)

    def upload(self, source: U8, address: int) -> None:
        """Begin to copy pinned memory to the GPU."""
        self._copy(address, source.ctypes.data, source.nbytes, "cudaMemcpyHostToDevice")

    def download(self, address: int, target: U8) -> None:
        """Begin to copy from the GPU to pinned memory."""
        self._copy(target.ctypes.data, address, target.nbytes, "cudaMemcpyDeviceToHost")

    def wait(self, doing: str) -> None:
        """Sleep until all that was begun is done; errors of that work appear here."""
        (status,) = cudart.cudaEventRecord(self._reached, self._stream)
        check(self._where, doing, status)
        (status,) = cudart.cudaEventSynchronize(self._reached)
        check(self._where, doing, status)

    @contextmanager
    def captured(self, doing: str) -> Iterator[Graph]:
        """Record what is begun inside the block, without doing it, as a graph to launch.

        Raises:
            EngineFailed: something inside can't be recorded; the stream works on.
        """
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        (status,) = cudart.cudaStreamBeginCapture(self._stream, mode)
        check(self._where, doing, status)
        graph = Graph(self._where, self._stream)
        try:
            yield graph
        finally:
            status, recorded = cudart.cudaStreamEndCapture(self._stream)
            cudart.cudaGetLastError()  # a broken capture must not look like a later call's error
        check(self._where, doing, status)
        graph.make(recorded, doing)

    def close(self) -> None:
        """Let go of the stream."""
        cudart.cudaEventDestroy(self._reached)
        cudart.cudaStreamDestroy(self._stream)

    def _copy(self, target: int, source: int, size_bytes: int, kind: str) -> None:
        (status,) = cudart.cudaMemcpyAsync(
            target, source, size_bytes, getattr(cudart.cudaMemcpyKind, kind), self._stream
        )
        check(self._where, f"copying {size_bytes} bytes ({kind})", status)


class Graph:
    """Recorded work of a stream; one launch replaces all its calls."""

    def __init__(self, where: str, stream: object) -> None:
        self._where = where
        self._stream = stream
        self._ready: object | None = None

    def make(self, recorded: object, doing: str) -> None:
        """Make a recording ready to launch."""
        status, self._ready = cudart.cudaGraphInstantiate(recorded, 0)
        cudart.cudaGraphDestroy(recorded)
        check(self._where, doing, status)

    def launch(self, doing: str) -> None:
        """Begin the recorded work."""
        (status,) = cudart.cudaGraphLaunch(self._ready, self._stream)
        check(self._where, doing, status)

    def close(self) -> None:
        """Let go of the recording."""
        cudart.cudaGraphExecDestroy(self._ready)


def _driver_version() -> str | None:
    """Version of the kernel module, where the system shows it; on Jetson it is the system's own."""
    for file in _DRIVER_FILES:
        try:
            found = re.search(r"\d+\.\d+(\.\d+)?", Path(file).read_text())
        except OSError:
            continue
        if found:
            return found[0]
    return None
