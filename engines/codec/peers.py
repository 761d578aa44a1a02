"""Code planes with the usual codecs through PyAV, into real files; offline, for evaluate.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from engines.codec.base import U8, Picture

FPS = 25


@dataclass(frozen=True, slots=True)
class Peer:
    """One codec with its options, and the levels of quality that make its curve."""

    encoder: str
    options: dict[str, str]
    level_options: tuple[str, ...]
    levels: tuple[int, ...]
    pixel_format: str = "yuv420p"

    def settings(self, level: int) -> dict[str, str]:
        """Options of one level."""
        return self.options | {name: str(level) for name in self.level_options}


_X264 = {"g": "12", "bf": "2", "b_strategy": "0", "sc_threshold": "0", "tune": "zerolatency"}
_CRF = (15, 19, 23, 27, 31)

PEERS = {
    "x264": Peer("libx264", _X264 | {"preset": "veryfast"}, ("crf",), _CRF),
    "x264intra": Peer("libx264", _X264 | {"preset": "veryfast", "g": "1"}, ("crf",), _CRF),
    "x264medium": Peer("libx264", _X264 | {"preset": "medium"}, ("crf",), _CRF),
    "x265": Peer(
        "libx265",
        {"preset": "medium", "g": "12", "x265-params": "log-level=error:keyint=12:scenecut=0"},
        ("crf",),
        _CRF,
    ),
    "svtav1": Peer("libsvtav1", {"preset": "8", "g": "12"}, ("crf",), (20, 28, 36, 44, 52)),
    "mjpeg": Peer("mjpeg", {}, ("qmin", "qmax"), (2, 4, 8, 14, 24), "yuvj420p"),
}


@dataclass(frozen=True, slots=True)
class Coded:
    """A file that a peer wrote, and what it takes."""

    pictures: list[Picture]
    file_bytes: int
    encode_s: float
    """Processor time of all threads."""
    decode_s: float


def run_peer(peer: Peer, level: int, pictures: list[Picture], folder: Path) -> Coded:
    """Write pictures to a Matroska file and read them back."""
    path = folder / f"{peer.encoder}.mkv"
    begin = time.process_time()
    _write(peer, level, pictures, path)
    middle = time.process_time()
    decoded = list(_read(path))
    end = time.process_time()
    if len(decoded) != len(pictures):
        raise RuntimeError(f"{peer.encoder}: {len(decoded)} of {len(pictures)} pictures came back")
    return Coded(decoded, path.stat().st_size, middle - begin, end - middle)


def _write(peer: Peer, level: int, pictures: list[Picture], path: Path) -> None:
    height, width = pictures[0].y.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream(peer.encoder, rate=FPS, options=peer.settings(level))
        stream.width, stream.height, stream.pix_fmt = width, height, peer.pixel_format
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame(width, height, peer.pixel_format)
            for plane, values in zip(frame.planes, (picture.y, picture.u, picture.v), strict=True):
                _fill(plane, values)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _read(path: Path) -> Iterator[Picture]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield Picture(*(_values(plane) for plane in frame.planes))


def _fill(plane: av.video.plane.VideoPlane, values: U8) -> None:
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    rows[: values.shape[0], : values.shape[1]] = values


def _values(plane: av.video.plane.VideoPlane) -> U8:
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return np.array(rows[: plane.height, : plane.width])
