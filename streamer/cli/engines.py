"""`streamer engines build`, `bench` and `verify`, and the door to all its subcommands."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from engines import registry
from engines.adopt import adopt
from engines.bench import race
from engines.build import PRECISIONS
from engines.detectors.runtime import Detector
from engines.errors import DownloadFailed, EngineError, EngineFailed, ModelError
from engines.load import load_engine
from engines.verify import Comparison, compare
from engines.zoo import find_model
from streamer.cli.main import make_parser
from streamer.cli.models import EPILOG, add_options, command, list_options, pull_options
from streamer.cli.progress import Bar
from streamer.planes import Planes
from streamer.sources.uri import open_source

_SCENE = "synthetic:street?seed=1&size=1280x720"
_CALIBRATION, _VERIFICATION = 120, 8
_SHORT = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", None: None}


def main(arguments: Sequence[str]) -> int:
    """Run one of the subcommands."""
    parser = make_parser("engines", epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (list_options, pull_options, add_options, _build_options, _bench_options,
                _verify_options):  # fmt: skip
        add(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (EngineError, ValueError) as error:
        print(f"streamer: error: {error}", file=sys.stderr)
        if isinstance(error, DownloadFailed):
            return 3
        return 4 if isinstance(error, EngineFailed) else 2


# --------------------------------------------------------------------------------------- build


def _build_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(
        commands, "build", "compile a network for a device, or quantise it to int8", _build
    )
    parser.add_argument("name", metavar="NAME|PATH.onnx")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda:0, ...")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="default is the graph's own; int8 needs --calibrate"
    )
    parser.add_argument(
        "--batch", type=_numbers, default=(1,), metavar="N,N", help="sizes to tune for; default 1"
    )
    parser.add_argument(
        "--calibrate", metavar="SOURCE", help="clip or pictures like those that it will see"
    )
    parser.add_argument("--workspace-mb", type=int, metavar="N", help="GPU memory of one layer")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _build(options: argparse.Namespace) -> int:
    path = find_model(options.name)
    on_gpu = options.device.startswith("cuda")
    report: dict[str, object] = {"name": options.name, "device": options.device}
    if options.precision == "int8" and options.calibrate:
        quantised = _quantise(options, path, on_gpu=on_gpu)
        path = Path(quantised.path)
        report |= {"quantised": quantised.name, "size_bytes": quantised.size_bytes}
        print(f"{quantised.name}: quantised; --detector {quantised.name} uses it", file=sys.stderr)
    if on_gpu:
        report |= _compile(options, path)
    else:
        report |= _warm(options, path)
    print(json.dumps(report) if options.json else f"{options.name}: {report}")
    return 0


def _quantise(options: argparse.Namespace, path: Path, *, on_gpu: bool) -> registry.Model:
    """Calibrate on the user's pictures and store the result as NAME-int8."""
    offline = importlib.import_module("engines.quantize")
    name = f"{path.stem}-int8"
    registry.check_name(name)
    detector = Detector.load(path, device="onnxruntime:cpu", batch=1)
    try:
        pictures = _pictures(options.calibrate, _CALIBRATION)
        samples = [detector.prepare(p.y, p.u, p.v) for p in pictures]
    finally:
        detector.close()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"{name}.onnx"
        offline.quantize(path, made, samples, runs="tensorrt" if on_gpu else "cpu")
        kept = adopt(made, name)
    known = registry.models().get(options.name)
    licence = known.licence if known is not None else ""
    # Unsigned activations, faster on a CPU, are none of TensorRT's.
    runs_on = kept.runs_on if on_gpu else tuple(n for n in kept.runs_on if n != "tensorrt")
    described = replace(kept, licence=licence, runs_on=runs_on, path="")
    return registry.store(described, Path(kept.path).read_bytes())


def _compile(options: argparse.Namespace, path: Path) -> dict[str, object]:
    from engines.build import build

    bar = Bar(sys.stderr, options.name)
    try:
        built = build(
            path,
            device=options.device,
            precision=options.precision,
            batches=options.batch,
            workspace_mb=options.workspace_mb,
            progress=bar.phase,
        )
    finally:
        bar.close()
    return asdict(built) | {"path": str(built.path)}


def _warm(options: argparse.Namespace, path: Path) -> dict[str, object]:
    """Compile now what a run would compile at its start; OpenVINO keeps it in its cache."""
    quantised = options.precision == "int8"
    if quantised and not _is_quantised(path):
        raise ModelError(
            f"{options.name}: network must have Q/DQ nodes for int8, got none; give --calibrate "
            "CLIP with pictures like those that it will see"
        )
    precision = None if quantised else _SHORT.get(options.precision, options.precision)
    for batch in options.batch:
        engine = load_engine(path, device=options.device, precision=precision, batch=batch)
        engine.warm_up()
        library = f"{engine.name} {engine.version}"
        engine.close()
    return {"engine": library, "path": str(path), "precision": options.precision or "graph's own"}


def _is_quantised(path: Path) -> bool:
    from engines.onnxgraph import read_graph

    return read_graph(path.read_bytes(), str(path)).quantised


# --------------------------------------------------------------------------------------- bench


def _bench_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(
        commands, "bench", "measure latency and throughput by batch on this machine", _bench
    )
    parser.add_argument("names", nargs="+", metavar="NAME|PATH.onnx")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda:0, ...")
    parser.add_argument("--precision", help="of the arithmetic: f32 (default), bf16, f16, auto")
    parser.add_argument("--batch", type=_numbers, default=(1,), metavar="N,N")
    parser.add_argument("--threads", type=int, default=1, help="inside one call; default 1")
    parser.add_argument("--seconds", type=float, default=5.0, help="in all; default 5")
    parser.add_argument("--json", action="store_true", help="one JSON object for each row")


def _bench(options: argparse.Namespace) -> int:
    engines = []
    try:
        for name in options.names:
            for batch in options.batch:
                engine = load_engine(
                    find_model(name),
                    device=options.device,
                    threads=options.threads,
                    precision=options.precision,
                    batch=batch,
                )
                held = engine.inputs[0].shape[0]
                if held not in (None, batch):
                    engine.close()
                    print(f"{name}: takes {held} at once, not {batch}; left out", file=sys.stderr)
                    continue
                engines.append((name, engine, batch))
        if not engines:
            raise ValueError("--batch: no network takes these sizes; use 1")
        speeds = race(engines, seconds=options.seconds)
    finally:
        for _, engine, _ in engines:
            engine.close()
    if not options.json:
        print(f"{'name':20} {'engine':22} {'batch':>5} {'p50 ms':>8} {'p95 ms':>8} "
              f"{'CPU ms':>8} {'per s':>8}")  # fmt: skip
    for speed in speeds:
        print(
            json.dumps(asdict(speed))
            if options.json
            else f"{speed.name:20} {speed.engine:22} {speed.batch:5} {speed.p50_ms:8.2f} "
            f"{speed.p95_ms:8.2f} {speed.cpu_ms:8.2f} {speed.pictures_per_s:8.1f}"
        )
    return 0


# -------------------------------------------------------------------------------------- verify


def _verify_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(
        commands, "verify", "compare a detector's engine with ONNX Runtime on pictures", _verify
    )
    parser.add_argument("name", metavar="NAME|PATH.onnx")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda:0, ...")
    parser.add_argument("--precision", help="of the arithmetic: f32 (default), bf16, f16, auto")
    parser.add_argument(
        "--on", default=_SCENE, metavar="SOURCE", help="clip or pictures; default a rendered street"
    )
    parser.add_argument("--pictures", type=int, default=_VERIFICATION, metavar="N")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _verify(options: argparse.Namespace) -> int:
    if options.pictures < 1:
        raise ValueError(f"--pictures: must be at least 1, got {options.pictures}")
    pictures = [(p.y, p.u, p.v) for p in _pictures(options.on, options.pictures)]
    found = compare(
        find_model(options.name), pictures, device=options.device, precision=options.precision
    )
    print(json.dumps(asdict(found)) if options.json else _verdict(options.name, found))
    return 0 if found.passed else 4


def _verdict(name: str, found: Comparison) -> str:
    outputs = ", ".join(f"{output} {part:.1e}" for output, part in found.outputs.items())
    return (
        f"{name} by {found.engine} on {found.device} in {found.precision}: "
        f"{'as the oracle' if found.passed else 'DIFFERS from the oracle'} on {found.pictures} "
        f"pictures\n  outputs differ by (of their largest value) {outputs}\n  {found.boxes} boxes, "
        f"agreement {found.agreement:.4f}, worst side {found.worst_box_px:.2f} px, worst score "
        f"{found.worst_score:.4f}"
    )


# ------------------------------------------------------------------------------------- options


def _pictures(uri: str, count: int) -> list[Planes]:
    """Copies of up to so many frames of a source, evenly over it where its length is known."""
    source = open_source(uri)
    try:
        declared = source.open().frames_declared
        every = max((declared or count * 10) // count, 1)
        pictures = []
        for frame in islice(source.frames(), 0, every * count, every):
            planes = Planes.empty(frame.width, frame.height)
            frame.write_to(planes)
            pictures.append(planes)
        return pictures
    finally:
        source.close()


def _numbers(text: str) -> tuple[int, ...]:
    """Read "1,8,32"."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(
            f"must be numbers from 1 with commas between, got {text!r}"
        )
    return numbers
