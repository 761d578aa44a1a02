"""Write into an ONNX file what a classifier's outputs mean, so that it can follow a detector.

Offline; the network itself stays as it is.

    python -m engines.classifiers.describe IN.onnx OUT.onnx --kind classes --names sedan,van,taxi \\
        --colour rgb --mean 123.7,116.3,103.5 --scale 0.0171,0.0175,0.0174 --margin 0.1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import onnx
from onnx import helper

from engines.classifiers.signature import FAMILY, Colour, Kind, recognise
from engines.load import load_engine


def describe(source: Path, target: Path, said: Mapping[str, str]) -> None:
    """Copy a model with this metadata beside its own.

    Raises:
        ModelError: the description does not fit the network; nothing was written.
    """
    model = onnx.load(source)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, kept | {"family": FAMILY, **said})
    unchecked = target.with_suffix(".unchecked")
    onnx.save(model, unchecked)
    try:
        engine = load_engine(unchecked, device="onnxruntime:cpu")
        try:
            recognise(engine, str(target))
        finally:
            engine.close()
        unchecked.replace(target)
    finally:
        unchecked.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Describe one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--kind", choices=get_args(Kind), required=True)
    parser.add_argument("--names", required=True, help="of the outputs, with commas between")
    parser.add_argument("--colour", choices=get_args(Colour), required=True)
    parser.add_argument(
        "--accepts", help="verifier: the detector's classes that each name stands for: a+b,c"
    )
    parser.add_argument("--fusion", help="verifier: weights of both logits, and an offset")
    parser.add_argument("--mean", help="subtracted from 0..255, three numbers")
    parser.add_argument("--scale", help="multiplied after that, three numbers")
    parser.add_argument("--margin", help="surroundings, as a part of the box")
    options = vars(parser.parse_args(argv))
    source, target = options.pop("source"), options.pop("target")
    describe(source, target, {key: value for key, value in options.items() if value is not None})
    sys.stdout.write(f"{target}: described\n")


if __name__ == "__main__":
    main()
