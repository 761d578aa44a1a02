"""Know all networks by name: those that are shipped, public ones to pull, and the user's own.

The user's lie as NAME.onnx in one folder, with what is known of them in NAME.json beside it. Runs
in commands, never in a running pipeline; finding a network by name is engines.zoo's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import yaml

from engines.classifiers.signature import FAMILY as CLASSIFIER
from engines.detectors.families import FAMILIES
from engines.errors import EngineUnavailable, ModelError
from engines.onnxfile import read_metadata
from engines.zoo import SHIPPED, find_model, models_folder

Task = Literal["detect", "classify", "reid", "action", "segment", "codec"]
Origin = Literal["shipped", "public", "added", "pulled"]

_LIST = Path(__file__).with_name("zoo") / "models.yaml"
_TASKS: dict[str, Task] = {
    CLASSIFIER: "classify",
    "streamer.off": "action",
    "cascade": "segment",
    "appearance": "reid",
}
"""By the metadata key "family"; all others detect."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_EVERYWHERE = ("tensorrt", "openvino", "onnxruntime")
_NOT_TENSORRT = ("openvino", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Model:
    """One network and what is known of it; empty where it is not."""

    name: str
    task: Task
    origin: Origin
    family: str = ""
    classes: str = ""
    """Their names with commas between, or in words."""
    licence: str = ""
    score: str = ""
    size_bytes: int = 0
    path: str = ""
    """Of the ONNX file; empty for what is not here yet."""
    address: str = ""
    sha256: str = ""
    """Of the file at the address, or the first digits of it."""
    runs_on: tuple[str, ...] = _EVERYWHERE

    @property
    def here(self) -> bool:
        """It can be loaded now."""
        return bool(self.path)

    @property
    def from_torch(self) -> bool:
        """What is at the address are torchvision's weights, to be exported once."""
        return self.address.endswith(".pth")


def models() -> dict[str, Model]:
    """All networks by name: shipped, then the user's, then public ones that are not here.

    Raises:
        ModelError: a record in the user's folder is damaged.
    """
    listed = yaml.safe_load(_LIST.read_text(encoding="utf-8"))
    found = {name: _shipped(name, listed["shipped"].get(name, {})) for name in SHIPPED}
    folder = models_folder()
    for path in sorted(folder.glob("*.onnx")) if folder.is_dir() else ():
        if path.stem not in found:
            found[path.stem] = _record(path)
    for name, entry in listed["public"].items():
        found.setdefault(name, _public(name, entry))
    return found


def find(name: str) -> Model:
    """One network by name.

    Raises:
        ModelError: there is none of that name.
    """
    known = models()
    if name not in known:
        raise ModelError(
            f"{name}: model must be one of {', '.join(known)}, got another name; see streamer "
            "engines list, or add a file with streamer engines add"
        )
    return known[name]


def public(name: str) -> Model:
    """One public network, whether it is here or not.

    Raises:
        ModelError: no public network has that name.
    """
    entries = yaml.safe_load(_LIST.read_text(encoding="utf-8"))["public"]
    if name not in entries:
        raise ModelError(f"{name}: public model must be one of {', '.join(entries)}, got {name!r}")
    return _public(name, entries[name])


def check_name(name: str) -> None:
    """Refuse a name that can't be a file's, or that a shipped network has.

    Raises:
        ValueError: with the rule.
    """
    if not _NAME.fullmatch(name) or name.endswith(".onnx"):
        raise ValueError(
            f"name must be small letters, digits, '.', '_' and '-', at most 64, got {name!r}"
        )
    if name in SHIPPED:
        raise ValueError(f"name must not be a shipped network's, got {name!r}; choose another")


def store(model: Model, content: bytes) -> Model:
    """Put a network into the user's folder; a file of that name is replaced in one step.

    Args:
        model: what is known of it; path, size and hash are set here.
        content: the ONNX file.

    Raises:
        EngineUnavailable: the folder can't be written.
        ValueError: the name is not allowed.
    """
    check_name(model.name)
    folder = models_folder()
    path = folder / f"{model.name}.onnx"
    facts = asdict(model) | {"size_bytes": len(content), "path": ""}
    facts["sha256"] = model.sha256 or hashlib.sha256(content).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(path.with_suffix(".json"), json.dumps(facts, indent=1).encode())
        _write(path, content)
    except OSError as error:
        raise EngineUnavailable(
            f"{folder}: models must lie in a folder that can be written, got {error.strerror}; "
            "free some space, or set STREAMER_MODELS to another folder"
        ) from error
    return _record(path)


def runs_on(family: str) -> tuple[str, ...]:
    """Libraries that run a family of detectors."""
    compiles = family not in FAMILIES or FAMILIES[family].compiles
    return _EVERYWHERE if compiles else _NOT_TENSORRT


def _shipped(name: str, entry: Mapping[str, str]) -> Model:
    try:
        path = find_model(name)
    except ModelError:
        return Model(name, "detect", "shipped", score="missing from this installation")
    metadata = read_metadata(path)
    family = metadata.get("family", "")
    return Model(
        name,
        _TASKS.get(family, "detect"),
        "shipped",
        family=family,
        classes=metadata.get("classes", metadata.get("names", "")),
        licence=entry.get("licence", metadata.get("licence", "")),
        score=entry.get("score", ""),
        size_bytes=path.stat().st_size,
        path=str(path),
    )


def _public(name: str, entry: Mapping[str, str | float]) -> Model:
    text = {key: str(value) for key, value in entry.items()}
    return Model(
        name,
        _task(text["task"]),
        "public",
        family=text["family"],
        classes=text["classes"],
        licence=text["licence"],
        score=text.get("score", ""),
        size_bytes=round(float(text["size_mb"]) * 1e6),
        address=text["address"],
        sha256=text.get("sha256", text.get("sha256_prefix", "")),
        runs_on=runs_on(text["family"]),
    )


def _record(path: Path) -> Model:
    """What is known of a file in the user's folder; a file without a record is one too."""
    record = path.with_suffix(".json")
    if not record.is_file():
        size = path.stat().st_size
        family = read_metadata(path).get("family", "")
        task = _TASKS.get(family, "detect")
        return Model(path.stem, task, "added", family=family, size_bytes=size, path=str(path))
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        facts |= {"path": str(path), "runs_on": tuple(facts["runs_on"])}
        return Model(**facts)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{record}: record must say what {path.name} is, got {error!r}; delete it and add the "
            "network again"
        ) from error


def _task(text: str) -> Task:
    for task in get_args(Task):
        if task == text:
            known: Task = task
            return known
    raise ModelError(f"{_LIST.name}: task must be one of {get_args(Task)}, got {text!r}")


def _write(path: Path, content: bytes) -> None:
    descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        raise
