"""Write the networks and frames that the GPU benchmark measures, for a machine without the tools.

    python -m benchmarks.gpu.prepare FOLDER [--data DIR] [--clip FILE] [--size WIDTHxHEIGHT]

For each shipped network FOLDER gets its ONNX file; the same in fp16; for detectors also one that
takes a frame's planes (NAME.planes.onnx) and that in fp16, and eight real frames as both kinds of
input (NAME.npz). Here onnx, OpenCV and the clips are needed; the benchmark then needs none of them.
Prints what preparing a frame on this processor costs, which NAME.planes leaves to the GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.gpu.measure import shipped
from benchmarks.report import parser
from engines.detectors.runtime import Detector
from engines.errors import EngineError
from engines.feed_graph import add_feed, feed_for
from engines.onnxgraph import read_graph
from engines.precision import lower

FRAMES = 8
Frame = tuple[np.ndarray, np.ndarray, np.ndarray]


def prepare(name: str, path: Path, folder: Path, frames: Sequence[Frame]) -> float | None:
    """Write all of one network; gives the milliseconds that a frame's preparation takes here."""
    write(folder / f"{name}.onnx", path.read_bytes())
    try:
        detector = Detector.load(name, device="onnxruntime:cpu")
    except EngineError:
        return None  # no detector: it is measured on noise
    height, width = frames[0][0].shape
    feed = feed_for(detector.signature, width, height)
    write(folder / f"{name}.planes.onnx", add_feed(path.read_bytes(), feed, name))
    taken = []
    for frame in frames:
        began = time.thread_time()
        detector.prepare(*frame)
        taken.append((time.thread_time() - began) * 1e3)
    small = [detector.prepare(*frame) for frame in frames]
    pictures = {key: np.concatenate([one[key] for one in small]) for key in small[0]}
    np.savez_compressed(folder / f"{name}.npz", **pictures, **feed.arrays(frames))
    detector.close()
    return statistics.median(taken)


def write(path: Path, model: bytes) -> None:
    """Write a network, and in fp16 if it is in fp32."""
    path.write_bytes(model)
    if read_graph(model, path.name).precision == "fp32":
        path.with_suffix(".fp16.onnx").write_bytes(lower(model, "fp16", path.name))


def frames_of(clip: Path, width: int, height: int) -> list[Frame]:
    """Frames spread over the first seconds of a clip, scaled to one size."""
    capture = cv2.VideoCapture(str(clip))
    frames = []
    while len(frames) < FRAMES:
        for _ in range(10):
            read, picture = capture.read()
        if not read:
            raise SystemExit(f"{clip}: clip must have {FRAMES * 10} frames; choose a longer one")
        flat = cv2.cvtColor(cv2.resize(picture, (width, height)), cv2.COLOR_BGR2YUV_I420).ravel()
        y, u, v = np.split(flat, [width * height, width * height * 5 // 4])
        half = height // 2, width // 2
        frames.append((y.reshape(height, width), u.reshape(half), v.reshape(half)))
    return frames


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare from the command line."""
    options = _options(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    clip = options.clip or options.data / "video" / "walking_crowd_720p.mp4"
    frames = frames_of(clip, *(int(n) for n in options.size.split("x")))
    costs = {n: prepare(n, path, options.folder, frames) for n, path in shipped().items()}
    (options.folder / "prepare.json").write_text(json.dumps({"prepare_ms": costs}) + "\n")
    for name, cost in costs.items():
        sys.stdout.write(f"{name}: {'no detector' if cost is None else f'{cost:.2f} ms a frame'}\n")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("folder", type=Path)
    made.add_argument("--clip", type=Path)
    made.add_argument("--size", default="1280x720", help="even; default: %(default)s")
    return made.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
