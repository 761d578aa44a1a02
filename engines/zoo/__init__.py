"""Find a network by name among the ONNX files that are shipped in this folder."""

from __future__ import annotations

from pathlib import Path

from engines.errors import ModelError

__all__ = ["SHIPPED", "find_model"]

SHIPPED = {"street": "street.onnx"}
"""Name of each shipped network and its file in this folder."""


def find_model(name_or_path: str | Path) -> Path:
    """Return the file of a shipped network, or the path as it is.

    Raises:
        ModelError: it is neither a shipped name nor a path to a file.
    """
    shipped = SHIPPED.get(str(name_or_path))
    path = Path(__file__).with_name(shipped) if shipped else Path(name_or_path)
    if not path.is_file():
        raise ModelError(
            f"{name_or_path}: model must be one of {', '.join(SHIPPED)} or an ONNX file, "
            "got neither; check the name or the path"
        )
    return path
