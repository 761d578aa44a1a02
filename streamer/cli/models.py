"""`streamer engines list`, `pull` and `add`: which networks there are, and how they get here."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from engines import registry
from engines.adopt import adopt
from engines.detectors.families import FAMILIES
from engines.download import download
from engines.errors import ModelError
from engines.zoo import models_folder
from streamer.cli.progress import Bar

EPILOG = "Exit codes: 0 done, 2 wrong option or network, 3 a download failed, 4 an engine failed."


def command(
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


def list_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(commands, "list", "list shipped, public and your own networks", _list)
    parser.add_argument("--json", action="store_true", help="one JSON object for each, with all")


def _list(options: argparse.Namespace) -> int:
    models = registry.models()
    if options.json:
        for model in models.values():
            print(json.dumps(asdict(model)))
        return 0
    row = "{:16} {:8} {:9} {:11} {:20} {:>9}  {:13} {:9} {}"
    print(
        row.format(
            "name", "origin", "task", "family", "classes", "size", "licence", "TensorRT", "score"
        )
    )
    for model in models.values():
        # Where a network does not compile to TensorRT it still runs on the other two.
        compiles = "yes" if "tensorrt" in model.runs_on else "no"
        size = f"{model.size_bytes / 1e6:.1f} MB"
        print(
            row.format(
                model.name, model.origin, model.task, model.family.removeprefix("streamer."),
                _short(model.classes), size, model.licence or "unknown", compiles, model.score,
            )
        )  # fmt: skip
    print(
        "All run on openvino and onnxruntime. A public one is fetched with streamer engines pull; "
        f"yours lie in {models_folder()}"
    )
    return 0


def _short(classes: str) -> str:
    """Two names and how many more there are; words as they are."""
    names = [name for name in classes.split(",") if name not in ("", "-")]
    if len(names) < 4:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} +{len(names) - 2}"


# ---------------------------------------------------------------------------------------- pull


def pull_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(
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
        print(_described(keep(model, file)))
    return 0


def keep(model: registry.Model, file: Path) -> registry.Model:
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


def add_options(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(
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
