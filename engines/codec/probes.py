"""Measure what an exported `rt` promises beyond its curve: maps of quality, rates, rest; offline.

    python -m engines.codec.probes --model MODEL --video highway.avi

Objects are those of a rendered street that no training sees, with the noise of a sensor over it,
so that their places are exact. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.codec.base import U8, Codec, Picture, Planes420, StateT
from engines.codec.metrics import MSE_FLOOR, PEAK
from engines.codec.player import Recorder
from engines.codec.rate import ConstantQuality, RateControl, TargetRate
from engines.codec.records import Header
from engines.codec.runtime import RtRuntime
from engines.codec.schedule import quality_offset
from engines.codec.writer import LvcWriter
from streamer.planes import Planes
from streamer.sources.street.street import Street
from streamer.sources.uri import open_source

FPS = 25
INTRA_PERIOD = 96
WINDOW_S = 5
BLOCK_PX = 16
SENSOR_NOISE = 2.0
STREET_SEED, STREET_SIZE, STREET_FRAMES = 5, (424, 240), 48
Maps = Sequence[NDArray[np.int8] | None]


@dataclass(frozen=True, slots=True)
class Scene:
    """Pictures, and where their objects are."""

    pictures: list[Picture]
    masks: list[NDArray[np.bool_]]
    """(ceil(H/16), ceil(W/16)) blocks that an object touches."""

    def maps(self, most: int) -> list[NDArray[np.int8]]:
        """Emphasis that parts objects and background by `most` qualities."""
        low, high = -(most // 2), most - most // 2
        return [np.where(mask, high, low).astype(np.int8) for mask in self.masks]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a coded scene takes and looks like; luma alone."""

    payload_bytes: int
    objects_db: float
    frame_db: float


def street_scene(frames: int, *, noise: float, still: bool = False) -> Scene:
    """A street of STREET_SIZE; `still` repeats its first picture."""
    street = Street(STREET_SEED, *STREET_SIZE, fps=Fraction(FPS))
    rng = np.random.default_rng(0)
    pictures, masks = [], []
    for number in range(frames):
        frame = 100 if still else 100 + number
        planes = Planes.empty(*STREET_SIZE)
        street.render(frame, planes)
        noisy = (_with_noise(plane, noise, rng) for plane in (planes.y, planes.u, planes.v))
        pictures.append(Picture(*noisy))
        masks.append(_touched(street.truth(frame).boxes_xyxy))
    return Scene(pictures, masks)


def _with_noise(plane: U8, noise: float, rng: np.random.Generator) -> U8:
    added = np.rint(rng.normal(0, noise, plane.shape)) if noise else np.zeros(plane.shape)
    return np.asarray(np.clip(plane + added, 0, 255), np.uint8)


def _touched(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.bool_]:
    width, height = STREET_SIZE
    mask = np.zeros((-(-height // BLOCK_PX), -(-width // BLOCK_PX)), bool)
    for x1, y1, x2, y2 in np.maximum(boxes_xyxy / BLOCK_PX, 0):
        mask[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
    return mask


def code_scene(codec: Codec[StateT], scene: Scene, *, quality: int, maps: Maps) -> Drawn:
    """Code and decode a scene, intra first."""
    written = read = None
    size = 0
    errors = np.zeros(2)
    pixels = np.zeros(2)
    for number, picture in enumerate(scene.pictures):
        of = max(0, min(quality + quality_offset(number), codec.qualities - 1))
        payload, written = codec.compress(picture, written, quality=of, emphasis=maps[number])
        height, width = picture.y.shape
        decoded, read = codec.decompress(payload, read, width=width, height=height, quality=of)
        square = (decoded.y.astype(np.float64) - picture.y) ** 2
        inside = scene.masks[number].repeat(BLOCK_PX, 0).repeat(BLOCK_PX, 1)[:height, :width]
        size += len(payload)
        errors += np.array([square[inside].sum(), square.sum()])
        pixels += np.array([np.count_nonzero(inside), square.size])
    objects, frame = 10 * np.log10(PEAK**2 / np.maximum(errors / pixels, MSE_FLOOR))
    return Drawn(size, float(objects), float(frame))


def quality_map_gain(
    codec: Codec[StateT], scene: Scene, *, quality: int, most: int
) -> dict[str, float]:
    """What emphasis brings to objects and costs the picture at equal total bytes.

    Args:
        codec: to measure.
        scene: with objects.
        quality: of the recording without emphasis, whose bytes are the budget.
        most: difference of quality between objects and background.
    """
    plain = code_scene(codec, scene, quality=quality, maps=[None] * len(scene.pictures))
    maps = scene.maps(most)
    low, high = 0, codec.qualities - 1
    tried: dict[int, Drawn] = {}
    while high - low > 1:  # bytes grow with quality
        middle = (low + high) // 2
        tried[middle] = code_scene(codec, scene, quality=middle, maps=maps)
        if tried[middle].payload_bytes > plain.payload_bytes:
            high = middle
        else:
            low = middle
    one, other = (
        tried.get(q) or code_scene(codec, scene, quality=q, maps=maps) for q in (low, high)
    )
    rates = np.log([one.payload_bytes, other.payload_bytes])
    budget = np.log(plain.payload_bytes)
    objects = np.interp(budget, rates, [one.objects_db, other.objects_db])
    frame = np.interp(budget, rates, [one.frame_db, other.frame_db])
    return {
        "most": most,
        "bytes": plain.payload_bytes,
        "objects_gain_db": round(float(objects) - plain.objects_db, 3),
        "frame_loss_db": round(plain.frame_db - float(frame), 3),
    }


def record_sizes(
    codec: Codec[StateT], pictures: Iterable[Planes420], rate: RateControl, size: tuple[int, int]
) -> list[int]:
    """Bytes of each record of a file, its head and check included."""
    header = Header(
        codec.name, codec.model_hash, *size, Fraction(1, FPS), INTRA_PERIOD, codec.refresh_period
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.lvc"
        sizes = []
        with LvcWriter(path, header) as writer, Recorder(codec, writer, quality=rate) as recorder:
            before = writer.size_bytes
            for number, picture in enumerate(pictures):
                recorder.add(picture, pts=number, capture_ns=number * 10**9 // FPS)
                recorder.flush()
                sizes.append(writer.size_bytes - before)
                before = writer.size_bytes
    return sizes


def rate_deviation(sizes: list[int], kbps: float) -> float:
    """Greatest deviation in percent of any 5 s from the rate that was asked for, but the first.

    Raises:
        ValueError: there is no second window.
    """
    length = WINDOW_S * FPS
    if len(sizes) < 2 * length:
        raise ValueError(f"frames must be at least {2 * length}, got {len(sizes)}")
    sums = np.convolve(sizes, np.ones(length), "valid")[length:]
    return round(float(100 * np.abs(sums / (kbps * 125 * WINDOW_S) - 1).max()), 2)


def read_video(path: Path, count: int) -> list[Picture]:
    """The first pictures of a video, in the planes that it decodes to."""
    source = open_source(str(path))
    source.open()
    pictures = []
    try:
        for frame in islice(source.frames(), count):
            planes = Planes.empty(frame.width, frame.height)
            frame.write_to(planes)
            pictures.append(Picture(planes.y, planes.u, planes.v))
    finally:
        source.close()
    return pictures


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported rt")
    parser.add_argument("--video", type=Path, required=True, help="at least 10 s at 25 fps")
    parser.add_argument("--frames", type=int, default=500, help="of the video")
    parser.add_argument("--kbps", default="100,300", help="rates to ask for, with commas")
    parser.add_argument("--quality", type=int, default=24)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    codec = RtRuntime(options.model, device=options.device, threads=options.threads)
    still = street_scene(64, noise=0.0, still=True).pictures
    at_rest = record_sizes(codec, still, ConstantQuality(options.quality), STREET_SIZE)[1:]
    scene = street_scene(STREET_FRAMES, noise=SENSOR_NOISE)
    gains = [
        quality_map_gain(codec, scene, quality=options.quality, most=most) for most in (8, 14, 20)
    ]
    video = read_video(options.video, options.frames)
    size = (video[0].y.shape[1], video[0].y.shape[0])
    deviations = {}
    for kbps in map(float, options.kbps.split(",")):
        rate = TargetRate(kbps, period=INTRA_PERIOD, start=options.quality)
        deviations[f"{kbps:g}"] = rate_deviation(record_sizes(codec, video, rate, size), kbps)
    result = {
        "model": codec.name,
        "static_bytes_inter": {"mean": float(np.mean(at_rest)), "last": at_rest[-1]},
        "quality_map": gains,
        "rate_deviation_percent": deviations,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
