"""Build all shipped networks for an NVIDIA GPU, verify them against ONNX Runtime, and time them.

    python -m benchmarks.gpu [FOLDER] [--device cuda:0] [--precisions fp32,fp16] [--batches 1,8,32]

Regime: each network in each precision, for one batch size at a time, so that shapes are fixed and
the work is replayed as a CUDA graph; latency is one request waited for, host memory to host
memory; throughput has --streams requests in flight. Peer: ONNX Runtime on the same machine's
processor with all its cores (--device cpu measures that way only, and tests this program without a
GPU). Ceiling: what the PCIe bus carries, 0.34 MB a picture of the shipped detector.

FOLDER is what benchmarks.gpu.prepare has written; without it the shipped networks are measured on
noise, and fp16 needs the onnx package. What can't be built is an entry with its error, the rest
goes on. The last line is JSON; results/gpu.json of this repository is made by
--json-out benchmarks/results/gpu.json. See README.md beside this file for a bare machine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.measure import LIMITS, Oracle, latency_ms, measure, shipped, unfit
from benchmarks.report import Gate, Value, finish, parser, table
from engines.build import build, device_index
from engines.errors import EngineError
from engines.onnxgraph import read_graph

Row = dict[str, Value]

_PACKAGES = ("tensorrt", "cuda-python", "cuda-bindings", "onnxruntime", "onnx", "numpy")


def networks(folder: Path | None) -> dict[str, dict[str, Path]]:
    """Files of each network by their precision; fp32 stands for the graph as it was exported."""
    if folder is None:
        return {name: {"fp32": path} for name, path in shipped().items()}
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.onnx")):
        name, _, last = path.stem.rpartition(".")
        if last in LIMITS:
            found.setdefault(name, {})[last] = path
        else:
            found.setdefault(path.stem, {})["fp32"] = path
    found = {name: files for name, files in found.items() if "fp32" in files}
    if not found:
        raise SystemExit(
            f"{folder}: folder must hold ONNX files, got none; "
            "make them with python -m benchmarks.gpu.prepare"
        )
    return found


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Measure every combination; one that breaks is a row with its error."""
    batches = [int(n) for n in options.batches.split(",")]
    for name, files in networks(options.folder).items():
        path = files["fp32"]
        try:
            oracle = Oracle(path, len(os.sched_getaffinity(0)))
            own = read_graph(path.read_bytes(), str(path)).precision
        except EngineError as error:
            yield {"network": name, "precision": "fp32", "batch": None, "error": _said(error)}
            continue
        several = own == "fp32" and _on_gpu(options.device)
        for precision in options.precisions.split(",") if several else (own,):
            built = files.get(precision, path)
            for batch in batches:
                row: Row = {"network": name, "precision": precision, "batch": batch}
                yield row | one(built, oracle, precision, batch, options)
        oracle.engine.close()


def one(path: Path, oracle: Oracle, precision: str, batch: int, options: argparse.Namespace) -> Row:
    """Build and measure one combination, and the peer where it is the smallest batch."""
    if why := unfit(oracle.engine.inputs, batch):
        return {"skipped": why}
    row: Row = {"inputs": oracle.source}
    gpu = _on_gpu(options.device)
    try:
        if gpu:
            device = options.device.removeprefix("tensorrt:")
            made = build(path, device=device, precision=precision, batches=(batch,))
            row["built"], row["build_s"] = made.built, round(made.seconds, 2)
            row["engine_mb"] = round(made.path.stat().st_size / 1e6, 2)
        if batch == 1 and path == oracle.path:
            peer = latency_ms(oracle.engine, oracle.inputs(batch), options.seconds)
            row["onnxruntime_cpu_ms"] = peer["p50"]
        return row | measure(
            path,
            oracle,
            device=options.device,
            precision=precision if gpu else None,
            batch=batch,
            streams=options.streams,
            threads=1,
            seconds=options.seconds,
        )
    except (EngineError, ValueError) as error:
        return row | {"error": _said(error)}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _on_gpu(device: str) -> bool:
    return device.startswith(("cuda", "tensorrt"))


def machine_of(device: str) -> Row:
    """The GPU, its driver, and the versions of what was used."""
    versions: dict[str, Value] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    if not _on_gpu(device):
        return {"gpu": None, "driver": None, "versions": versions}
    from engines.tensorrt.cuda import Device

    gpu = Device(device_index(device.removeprefix("tensorrt:")), "benchmark")
    _, total = gpu.memory_bytes()
    return {
        "gpu": gpu.name,
        "capability": gpu.capability,
        "memory_gb": round(total / 1e9, 1),
        "driver": gpu.driver,
        "versions": versions,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line; 1 if a network differs from ONNX Runtime or can't be built."""
    options = _options(argv)
    measured = []
    configuration: Row = {
        "device": options.device,
        "streams": options.streams,
        "seconds": options.seconds,
    }
    try:
        configuration |= machine_of(options.device)
    except (EngineError, ImportError, ValueError) as error:
        raise SystemExit(f"no GPU to measure: {error}") from error
    for row in rows(options):
        sys.stderr.write(f"{row}\n")
        measured.append(row)
    _show(measured)
    wrong = sum(1 for row in measured if _wrong(row))
    return finish(
        "gpu",
        configuration=configuration,
        results={"rows": measured},
        gates=[Gate("networks that differ or fail", float(wrong), 0, 0)],
        json_out=options.json_out,
        enforce=True,
    )


def _wrong(row: Row) -> bool:
    if "skipped" in row:
        return False
    difference = row.get("difference")
    limit = LIMITS[str(row["precision"])]
    return not (isinstance(difference, float) and difference <= limit)


def _show(measured: Sequence[Row]) -> None:
    cells = []
    for row in measured:
        latency = row.get("latency_ms")
        p50, p99 = (latency["p50"], latency["p99"]) if isinstance(latency, dict) else (None, None)
        note = row.get("error") or row.get("skipped") or f"{row['difference']:.1e}"
        cells.append(
            [row["network"], row["precision"], row["batch"], p50, p99, row.get("per_s"), note]
        )
    headers = ["network", "precision", "batch", "p50 ms", "p99 ms", "per s", "difference"]
    table(headers, cells)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("folder", type=Path, nargs="?")
    made.add_argument("--device", default="cuda:0")
    made.add_argument("--precisions", default="fp32,fp16")
    made.add_argument("--batches", default="1,8,32")
    made.add_argument("--streams", type=int, default=2)
    made.add_argument("--seconds", type=float, default=2.0, help="of each figure")
    return made.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
