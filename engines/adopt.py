"""Take a user's ONNX file into the registry: say what it is, or what is missing to know it.

What the user adds to its description is appended to the file as metadata, which ONNX allows without
rewriting it, so that every engine and the pipeline read it from the file itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engines.base import Engine
from engines.classifiers.signature import FAMILY as CLASSIFIER
from engines.detectors.families import FAMILIES, recognise
from engines.errors import ModelError
from engines.load import load_engine
from engines.onnxfile import read_metadata
from engines.onnxgraph import GraphFacts, read_graph
from engines.registry import Model, check_name, runs_on, store
from engines.reid.runtime import Embedder

_METADATA = 14  # field number in ModelProto; 1 and 2 are key and value inside
_BYTES = 2  # wire type


def adopt(
    path: Path,
    name: str,
    *,
    family: str | None = None,
    classes: Sequence[str] = (),
    facts: Model | None = None,
) -> Model:
    """Check a file and store it under a name.

    Args:
        path: ONNX file; stays where it is.
        name: in the registry.
        family: one of FAMILIES, where the file alone is ambiguous.
        classes: names of the detector's classes, in the order of its outputs.
        facts: licence, score and origin, where they are known; None for a user's own file.

    Returns:
        What was recognised.

    Raises:
        ModelError: it is no ONNX file, cut short, has free picture sizes or operators that ONNX
            Runtime lacks, is of no known or of several kinds, or the classes don't fit. Nothing was
            stored.
        ValueError: the name or the family is not allowed.
    """
    check_name(name)
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    bad = [each for each in classes if "," in each or not each.strip()]
    if bad:
        raise ValueError(f"classes must have names without commas, got {bad[0]!r}; change it")
    read_metadata(path)
    content = path.read_bytes()
    graph = read_graph(content, str(path))
    if graph.external_data:
        raise ModelError(
            f"{path}: weights must lie in the file itself, got some in other files; load it with "
            "onnx.load and save it again with onnx.save"
        )
    said = {"family": family or "", "classes": ",".join(classes)}
    content += _metadata({key: value for key, value in said.items() if value})
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder) / path.name
        described.write_bytes(content)
        engine = load_engine(described, device="onnxruntime:cpu")
        try:
            model = _recognised(engine, graph, name, str(path))
        finally:
            engine.close()
    if facts is not None:
        model = replace(
            model,
            origin="pulled" if facts.origin == "public" else "added",
            licence=facts.licence,
            score=facts.score,
            address=facts.address,
            sha256=facts.sha256,
        )
    return store(model, content)


def _recognised(engine: Engine, graph: GraphFacts, name: str, where: str) -> Model:
    """What a network is, by its own words and shapes."""
    licence = engine.metadata.get("licence", "")
    if engine.metadata.get("family") == CLASSIFIER:
        names = engine.metadata.get("names", "")
        return Model(name, "classify", "added", CLASSIFIER, classes=names, licence=licence)
    try:
        signature = recognise(engine, where, operators=graph.operators)
    except ModelError as error:
        try:
            Embedder(engine, where)
        except ModelError:
            raise error from None
        return Model(name, "reid", "added", "appearance", licence=licence)
    return Model(
        name,
        "detect",
        "added",
        signature.family,
        classes=",".join(signature.classes),
        licence=licence,
        runs_on=runs_on(signature.family),
    )


def _metadata(said: Mapping[str, str]) -> bytes:
    """Entries of metadata_props, to be appended to a serialised model."""
    return b"".join(
        _field(_METADATA, _field(1, key.encode()) + _field(2, value.encode()))
        for key, value in said.items()
    )


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
