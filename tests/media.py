"""Small videos that the tests of sources make for themselves with the encoder of PyAV."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

GOP = 25
BITS, BIT_PX = 7, 16


def picture(index: int, width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """Blocks that move three pixels a frame, above them the frame number in bits."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(60, 200, (height // 8, width // 8), dtype=np.uint8)
    i420 = np.full((height * 3 // 2, width), 128, np.uint8)
    i420[:height] = np.roll(blocks.repeat(8, 0).repeat(8, 1), index * 3, axis=1)
    for bit in range(BITS):
        i420[:BIT_PX, bit * BIT_PX : (bit + 1) * BIT_PX] = 220 if index >> bit & 1 else 30
    return i420


def number_in(luma: NDArray[np.uint8]) -> int:
    """Read the frame number back."""
    bits = luma[:BIT_PX, : BITS * BIT_PX].reshape(BIT_PX, BITS, BIT_PX).mean(axis=(0, 2)) > 128
    return sum(1 << int(bit) for bit in np.flatnonzero(bits))


def write_video(
    path: Path,
    *,
    frames: int = 100,
    fps: int = 25,
    b_frames: int = 0,
    size: tuple[int, int] = (320, 240),
) -> Path:
    """Encode moving blocks as H.264; the suffix chooses the container (.264 is the raw stream)."""
    width, height = size
    raw = path.suffix == ".264"
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", "h264" if raw else None, options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "preset": "ultrafast",
            "crf": "18",
            "bf": str(b_frames),
            "x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:repeat-headers=1:b-adapt=0",
        }
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def access_units(path: Path) -> list[bytes]:
    """Cut a raw stream into its pictures."""
    with av.open(str(path)) as container:
        packets = container.demux(video=0)
        return [bytes(packet) for packet in itertools.takewhile(lambda p: p.size, packets)]
