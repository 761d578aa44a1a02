"""`streamer engines`: list, fetch, add, build, measure and check networks."""

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
from engines.detectors.families import FAMILIES
from engines.detectors.runtime import Detector
from engines.download import download
from engines.errors import DownloadFailed, EngineError, EngineFailed, ModelError
from engines.load import load_engine
from engines.verify import Comparison, compare
from engines.zoo import find_model, models_folder
from streamer.cli.main import make_parser
from streamer.cli.progress import Bar
from streamer.planes import Planes
from streamer.sources.uri import open_source

EPILOG = "Exit codes: 0 done, 2 wrong option or network, 3 a download failed, 4 an engine failed."
_SCENE = "synthetic:street?seed=1&size=1280x720"
_CALIBRATION, _VERIFICATION = 120, 8
_SHORT = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", None: None}


def main(arguments: Sequence[str]) -> int:
    """Run one of the subcommands."""
    parser = make_parser("engines", epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_list_options, _pull_options, _add_options, _build_options, _bench_options,
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


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    description = f"{text[0].upper()}{text[1:]}."
    parser = commands.add_parser(
        name, help=text, description=description, epilog=EPILOG, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


# ---------------------------------------------------------------------------------------- list


def _list_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "list", "list shipped, public and your own networks", _list)
    parser.add_argument("--json", action="store_true", help="one JSON object for each, with all")


def _list(options: argparse.Namespace) -> int:
    models = registry.models()
    if options.json:
        for model in models.values():
            print(json.dumps(asdict(model)))
        return 0
    row = "{:16} {:9} {:9} {:12} {:>9}  {:13} {:8} {}"
    print(row.format("name", "origin", "task", "family", "size", "licence", "TensorRT", "score"))
    for model in models.values():
        # Where a network does not compile to TensorRT it still runs on the other two.
        compiles = "yes" if "tensorrt" in model.runs_on else "no"
        size = f"{model.size_bytes / 1e6:.1f} MB"
        print(
            row.format(
                model.name, model.origin, model.task, model.family.removeprefix("streamer."), size,
                model.licence or "unknown", compiles, model.score,
            )
        )  # fmt: skip
    print(
        "All run on openvino and onnxruntime. A public one is fetched with streamer engines pull; "
        f"yours lie in {models_folder()}"
    )
    return 0


# ---------------------------------------------------------------------------------------- pull


def _pull_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands, "pull", "fetch public weights, resumed where it broke, checked by hash", _pull
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="see streamer engines list")
    parser.add_argument(
        "--address", metavar="URL", help="fetch from a mirror; the hash stays that of the list"
    )


def _pull(options: argparse.Namespace) -> int:
    for name in options.names:
        model = registry.public(name)
        address = options.address or model.address
        file = models_folder() / "downloads" / Path(model.address).name
        if not file.is_file():
            bar = Bar(sys.stderr, name)
            try:
                download(address, file, model.sha256, progress=bar.show)
            finally:
                bar.close()
        print(_described(_kept(model, file)))
    return 0


def _kept(model: registry.Model, file: Path) -> registry.Model:
    """Take what was fetched into the registry; torchvision's weights become ONNX first."""
    family = model.family if model.family in FAMILIES else None
    if not model.from_torch:
        kept = adopt(file, model.name, family=family, facts=model)
        file.unlink()
        return kept
    try:
        offline = importlib.import_module("engines.detectors.torchvision_export")
    except ImportError as error:
        raise ModelError(
            f"{model.name}: torchvision's weights must be exported once, which needs torch "
            f"({error}); pip install 'streamer[train]' and pull again: {file} stays"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / f"{model.name}.onnx"
        net = offline.load(model.family, file)
        offline.export_detector(net, model.family, exported, licence=model.licence)
        kept = adopt(exported, model.name, facts=model)
    file.unlink()
    return kept


def _described(model: registry.Model) -> str:
    names = [name for name in model.classes.split(",") if name not in ("", "-")]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return (
        f"{model.name}: {model.task}, {model.family}, classes {shown or 'none'}, "
        f"{model.size_bytes / 1e6:.1f} MB, runs on {', '.join(model.runs_on)}"
    )


# ----------------------------------------------------------------------------------------- add


def _add_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands, "add", "take an ONNX file of yours into the list; says what it is", _add
    )
    parser.add_argument("file", type=Path, metavar="FILE.onnx")
    parser.add_argument("--name", help="in the list; default is the file's")
    parser.add_argument(
        "--family", choices=FAMILIES, help="where inputs and outputs alone don't tell"
    )
    parser.add_argument(
        "--classes", type=Path, metavar="NAMES.txt", help="names of the classes, one a line"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _add(options: argparse.Namespace) -> int:
    classes: list[str] = []
    if options.classes is not None:
        try:
            text = options.classes.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{options.classes}: must be a text file of names, {error}") from error
        classes = [line.strip() for line in text.splitlines() if line.strip()]
    name = options.name or options.file.stem.lower()
    model = adopt(options.file, name, family=options.family, classes=classes)
    print(json.dumps(asdict(model)) if options.json else _described(model))
    if not options.json and model.task == "detect":
        print(f"use it with streamer run ... --detector {model.name}")
    return 0


# --------------------------------------------------------------------------------------- build


def _build_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
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
    if known is None or not known.licence:
        return kept
    return registry.store(
        replace(kept, licence=known.licence, path=""), Path(kept.path).read_bytes()
    )


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
    parser = _command(
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
    parser = _command(
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
