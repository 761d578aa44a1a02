"""Read the integers of an exported model: tables, integer paths, hash; runtime, numpy alone.

A model is a folder: entropy.npz, the ONNX graphs of export.py, and their weights. The hash is over
what decoding depends on, so that a file says with which model it was written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.codec.entropy import SymbolTables
from engines.errors import ModelError

ENTROPY_FILE = "entropy.npz"
WEIGHTS_FILE = "weights.bin"
"""Of all graphs."""
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The integers of a model folder."""

    folder: Path
    name: str
    meta: dict[str, int]
    arrays: dict[str, I32]
    model_hash: bytes

    @classmethod
    def read(cls, folder: str | Path, *, decodes: tuple[str, ...]) -> ModelFile:
        """Read entropy.npz and hash it with the graphs that decoding runs and the weights.

        Raises:
            ModelError: the folder or one of its files is missing or damaged.
        """
        folder = Path(folder)
        digest = hashlib.sha256()
        for name in (ENTROPY_FILE, *sorted(decodes), WEIGHTS_FILE):
            path = folder / name
            if not path.is_file():
                raise ModelError(f"{path}: no such file; make it with engines.codec.export")
            digest.update(path.read_bytes())
        try:
            with np.load(folder / ENTROPY_FILE, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
            meta = json.loads(bytes(arrays.pop("meta")))
            name = str(meta.pop("name"))
            numbers = {str(key): int(value) for key, value in meta.items()}
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{folder / ENTROPY_FILE}: not the integers of a codec ({error}); export it again"
            ) from error
        return cls(folder, name, numbers, arrays, digest.digest())

    def tables(self, name: str) -> SymbolTables:
        """The tables stored as <name>/counts and <name>/start."""
        where = f"{self.folder.name}: {name}"
        try:
            counts, start = self.arrays[f"{name}/counts"], self.arrays[f"{name}/start"]
        except KeyError as error:
            raise ModelError(f"{where}: {error} is missing; export the model again") from error
        pieces = np.split(counts.astype(np.uint32), start[1:-1])
        return SymbolTables(pieces, where=where)

    def group(self, name: str) -> dict[str, I32]:
        """All arrays stored as <name>/<key>."""
        head = f"{name}/"
        return {k.removeprefix(head): a for k, a in self.arrays.items() if k.startswith(head)}
