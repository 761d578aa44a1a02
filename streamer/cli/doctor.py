"""`streamer doctor`: say what this machine has and lacks, and what to do about what it lacks."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from engines.errors import EngineError
from engines.zoo import SHIPPED, find_model
from streamer import __version__
from streamer.cli.main import make_parser
from streamer.graph import processors
from streamer.memory import memory_available_bytes
from streamer.sinks.encoder import available_codecs

Row = tuple[str, str, str]
"""Mark ("ok", "--" for absent and optional, "!!" for missing), subject, text."""

_REQUIRED = ("av", "cv2", "lap", "msgspec", "numpy", "onnxruntime", "yaml", "zmq")
_OPTIONAL = {
    "openvino": "pip install openvino: the faster engine on Intel and AMD processors",
    "tensorrt": "pip install 'streamer[tensorrt]': engines on NVIDIA GPUs",
    "torch": "pip install 'streamer[train]': only for training and export",
}
_DISTRIBUTION = {"cv2": "opencv-python", "yaml": "pyyaml", "zmq": "pyzmq"}
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd")


def main(arguments: Sequence[str]) -> int:
    """Print a row for everything that matters; exit code 4 if something needed is missing."""
    make_parser("doctor").parse_args(arguments)
    rows = [*_machine(), *_packages(), *_media(), *_engines(), *_graphics()]
    for mark, subject, text in rows:
        print(f"{mark}  {subject:14} {text}")
    return 4 if any(mark == "!!" for mark, _, _ in rows) else 0


def _machine() -> Iterator[Row]:
    yield (
        "ok",
        "streamer",
        f"{__version__} on Python {platform.python_version()}",
    )
    flags = Path("/proc/cpuinfo").read_text(errors="replace").split()
    known = [flag for flag in _FLAGS if flag in flags]
    yield "ok", "processor", f"{processors()} cores, {platform.machine()} {' '.join(known)}"
    available = memory_available_bytes()
    yield ("ok" if available > 1e9 else "!!"), "memory", f"{available / 1e9:.1f} GB available"
    free = shutil.disk_usage(Path.cwd()).free
    yield ("ok" if free > 1e9 else "!!"), "disk", f"{free / 1e9:.1f} GB free in {Path.cwd()}"


def _packages() -> Iterator[Row]:
    for name in _REQUIRED:
        if find_spec(name) is None:
            yield "!!", name, "is missing; reinstall streamer"
        else:
            yield "ok", name, importlib.metadata.version(_DISTRIBUTION.get(name, name))
    for name, remedy in _OPTIONAL.items():
        if find_spec(name) is None:
            yield "--", name, f"not installed ({remedy})"
        else:
            yield "ok", name, importlib.metadata.version(name)


def _media() -> Iterator[Row]:
    hardware = importlib.import_module("streamer.sources.hardware")
    yield "ok", "encoders", ", ".join(available_codecs()) or "none"
    for kind in hardware.DEVICE_FILES:
        missing = hardware.why_not(kind)
        yield ("--" if missing else "ok"), f"decode {kind}", missing or "is there"
    cameras = sorted(str(path) for path in Path("/dev").glob("video*"))
    yield ("ok" if cameras else "--"), "cameras", ", ".join(cameras) or "no /dev/video*"


def _engines() -> Iterator[Row]:
    for name in ("openvino", "onnxruntime"):
        if find_spec(name):
            module = importlib.import_module(f"engines.{name}")
            yield "ok", f"on {name}", ", ".join(module.devices())
    yield "ok", "detectors", ", ".join(_shipped()) or "none"


def _shipped() -> Iterator[str]:
    for name in SHIPPED:
        try:
            find_model(name)
        except EngineError:
            yield f"{name} (missing from this installation)"
        else:
            yield name


def _graphics() -> Iterator[Row]:
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        yield "--", "NVIDIA GPU", "none found"
        return
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield "!!", "NVIDIA GPU", "/dev/nvidia* is there, but no nvidia-smi; install the driver"
        return
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    yield ("ok" if told.returncode == 0 else "!!"), "NVIDIA GPU", told.stdout.strip() or told.stderr
