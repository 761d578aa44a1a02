"""Turn a model folder into the codec that it holds, `rt` or `dvc`, on one device; runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engines.codec.dvc_runtime import DvcRuntime
from engines.codec.model import ENTROPY_FILE
from engines.codec.runtime import RtRuntime


def load_codec(
    folder: str | Path,
    *,
    device: str = "auto",
    threads: int = 1,
    precision: str | None = None,
    refresh_period: int = 32,
) -> RtRuntime | DvcRuntime:
    """Load a codec.

    Args:
        folder: made by export.py or dvc_export.py.
        device, threads, precision: see engines.load.load_engine.
        refresh_period: of the header; has no meaning for dvc, which remembers a picture alone.

    Raises:
        ModelError: a file of the model is missing or damaged.
    """
    if _moves_by_flow(Path(folder) / ENTROPY_FILE):
        return DvcRuntime(folder, device=device, threads=threads, precision=precision)
    return RtRuntime(
        folder, device=device, threads=threads, precision=precision, refresh_period=refresh_period
    )


def _moves_by_flow(path: Path) -> bool:
    """True for a model with tables of motion; one that can't be read is refused by its codec."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return "m/counts" in stored.files
    except (OSError, ValueError):
        return False
