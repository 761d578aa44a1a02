"""Find a network by name: among the ONNX files shipped in this folder, then the user's own."""

from __future__ import annotations

import os
from pathlib import Path

from engines.errors import ModelError

__all__ = ["SHIPPED", "find_codec", "find_model", "models_folder"]

SHIPPED = {
    "street": "street.onnx",
    "street-check": "street-check.onnx",
    "fight": "off/fight.onnx",
    "street_actions": "off/street_actions.onnx",
}
"""Name of each shipped network and its file in this folder."""


def models_folder() -> Path:
    """Where the user's own networks lie: $STREAMER_MODELS, else XDG_DATA_HOME's streamer/models."""
    if named := os.environ.get("STREAMER_MODELS"):
        return Path(named)
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "streamer" / "models"


def find_model(name_or_path: str | Path) -> Path:
    """Return the file of a shipped or added network, or the path as it is.

    Raises:
        ModelError: it is neither a known name nor a path to a file.
    """
    name = str(name_or_path)
    added = models_folder() / f"{name}.onnx"
    if name in SHIPPED:
        path = Path(__file__).parent / SHIPPED[name]
    else:
        path = added if "/" not in name and added.is_file() else Path(name_or_path)
    if not path.is_file():
        mine = sorted(file.stem for file in models_folder().glob("*.onnx"))
        raise ModelError(
            f"{name_or_path}: model must be one of {', '.join([*SHIPPED, *mine])} or an ONNX file, "
            "got neither; check the name or the path, or fetch a public one with streamer engines "
            "pull"
        )
    return path


def find_codec(name_or_path: str | Path) -> Path:
    """Return the folder of a shipped learned codec, or the path as it is.

    Raises:
        ModelError: it is neither.
    """
    shipped = Path(__file__).with_name("codec") / name_or_path
    path = shipped if shipped.is_dir() else Path(name_or_path)
    if not path.is_dir():
        raise ModelError(
            f"{name_or_path}: codec must be a shipped one or the folder of an exported model, got "
            "neither; check the name, or make one with engines.codec.export"
        )
    return path
