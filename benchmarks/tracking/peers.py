"""Run public trackers over the same detections, each in an environment of its own.

Their requirements conflict with ours and with each other's, so each package gets a virtual
environment in the cache folder, made on first use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tracking.sequences import F64, Sequence

PACKAGES = {"sort": "trackers", "bytetrack": "trackers", "norfair": "norfair"}
"""Peer and the package that has it."""

CACHE = Path(tempfile.gettempdir()) / "streamer-bench-peers"


def follow(peer: str, sequences: list[Sequence]) -> list[tuple[F64, float]]:
    """Tracks (rows frame, id, corners, class) and ms a frame of each sequence."""
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "in.npz", Path(folder) / "out.npz"
        columns: dict[str, F64] = {}
        for index, sequence in enumerate(sequences):
            columns[f"frames_{index}"] = sequence.rows
            columns[f"length_{index}"] = np.array(sequence.frames)
            columns[f"fps_{index}"] = np.array(sequence.fps)
        np.savez(given, **columns)
        worker = Path(__file__).with_name("peer_worker.py")
        subprocess.run(
            [str(_python(PACKAGES[peer])), str(worker), peer, str(given), str(answer)],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        with np.load(answer) as out:
            return [
                (out[f"tracks_{index}"], float(out[f"ms_{index}"]))
                for index in range(len(sequences))
            ]


def _python(package: str) -> Path:
    """The interpreter of the environment that has a package."""
    folder = CACHE / package
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        print(f"making an environment for {package} in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", package], check=True)
        (folder / "complete").touch()
    return python
