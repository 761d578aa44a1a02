"""Pack pictures, videos, rendered streets and moved textures into shards of clips; offline.

    python -m engines.codec.pack --data DATA --out runs/codec/shards

A shard is one .npz: `jpeg` (all files, one after the other), `end` (where each ends), `clip`
(number of the clip of each frame), `group` (of each clip, see GROUPS). JPEG files are taken byte
for byte, so that nothing is compressed twice; other frames are stored at quality 92.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from engines.codec.colour import bgr_from_planes
from engines.codec.textures import draw_scene
from streamer.planes import Planes
from streamer.sources.street.camera import CAMERAS
from streamer.sources.street.street import Street

HELD_BACK = ("car-roundabout", "horsejump-high", "scooter-black")
"""Sequences of davis that no training sees: traffic, an animal, a camera behind a scooter."""
HELD_BACK_VIDEO = "highway_320x240.avi"
"""A fixed camera over a road, which no training sees."""
HELD_BACK_FRAMES = 13
GROUPS = ("davis", "crowd", "persons", "road", "fight", "stills", "street", "textures")
STREET_SEEDS = range(1000, 1003)
"""Streets below are kept for evaluation and the demo."""
STREET_SIZE = (480, 270)
STREET_FIRST_FRAME = 100
TEXTURE_CLIPS = 16
SHARD_BYTES = 15 << 20
JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True)
class Clip:
    """Consecutive frames, each one JPEG file."""

    group: str
    frames: list[bytes]


@dataclass(slots=True)
class Packer:
    """Writes clips into numbered shards of bounded size."""

    folder: Path
    prefix: str
    clips: list[Clip] = field(default_factory=list)
    size: int = 0
    written: int = 0

    def add(self, clip: Clip) -> None:
        """Append one clip; starts a new shard where this one would grow too large."""
        size = sum(map(len, clip.frames))
        if self.clips and self.size + size > SHARD_BYTES:
            self.flush()
        self.clips.append(clip)
        self.size += size

    def flush(self) -> None:
        """Write what is pending as one shard."""
        if not self.clips:
            return
        frames = [frame for clip in self.clips for frame in clip.frames]
        np.savez(
            self.folder / f"{self.prefix}-{self.written:02d}.npz",
            jpeg=np.frombuffer(b"".join(frames), np.uint8),
            end=np.cumsum([len(frame) for frame in frames]),
            clip=np.repeat(np.arange(len(self.clips)), [len(c.frames) for c in self.clips]),
            group=np.array([GROUPS.index(clip.group) for clip in self.clips]),
        )
        self.clips, self.size, self.written = [], 0, self.written + 1


def video_clips(
    path: Path, group: str, *, half: bool, length: int, starts: range
) -> Iterator[Clip]:
    """Cut `length` consecutive frames at each start, of half size where asked."""
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SystemExit(f"{path}: not a video that can be read; check the folder given as --data")
    frames: list[bytes] = []
    index = 0
    wanted = set(starts)
    while True:
        ok, bgr = capture.read()
        if not ok:
            break
        if index in wanted:
            frames = []
        if half:
            bgr = cv2.resize(bgr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        if len(frames) < length and index >= starts.start:
            frames.append(_jpeg(bgr))
            if len(frames) == length:
                yield Clip(group, frames)
        index += 1
    capture.release()


def training_clips(data: Path) -> Iterator[Clip]:
    """All clips to train on, about 40 MiB of them."""
    yield from recorded_clips(data)
    yield from street_clips()
    yield from texture_clips(data)


def recorded_clips(data: Path) -> Iterator[Clip]:
    """What cameras saw, but for what is held back."""
    for folder in sorted((data / "davis").iterdir()):
        if folder.name not in HELD_BACK:
            yield Clip("davis", [f.read_bytes() for f in sorted(folder.glob("*.jpg"))])
    video = data / "video"
    crowd = video / "walking_crowd_720p.mp4"
    yield from video_clips(crowd, "crowd", half=True, length=20, starts=range(0, 300, 60))
    persons = video / "two_persons_1080p.mp4"
    yield from video_clips(persons, "persons", half=True, length=16, starts=range(0, 72, 36))
    mot = video / "mot17-04_frames1-8_1080p.mp4"
    yield from video_clips(mot, "crowd", half=True, length=8, starts=range(1))
    for path in sorted((data / "fight").glob("*.mp4"))[::10]:
        yield from video_clips(path, "fight", half=False, length=6, starts=range(10, 11))
    for path in sorted((data / "camvid" / "train").rglob("*.jpg"))[::9]:
        yield Clip("stills", [path.read_bytes()])


def street_clips() -> Iterator[Clip]:
    """Rendered streets, as often from each kind of camera; noiseless."""
    for seed in STREET_SEEDS:
        for camera in CAMERAS:
            street = Street(seed, *STREET_SIZE, fps=Fraction(25), camera=camera)
            planes = Planes.empty(*STREET_SIZE)
            frames = []
            for frame in range(STREET_FIRST_FRAME, STREET_FIRST_FRAME + 16):
                street.render(frame, planes)
                frames.append(_jpeg(bgr_from_planes(planes.y, planes.u, planes.v)))
            yield Clip("street", frames)


def texture_clips(data: Path) -> Iterator[Clip]:
    """Textures and parts of photographs that move over each other."""
    stills = [
        np.asarray(cv2.imread(str(path)), np.uint8)
        for path in sorted((data / "camvid" / "train").rglob("*.jpg"))[4::40]
    ]
    for seed in range(TEXTURE_CLIPS):
        scene = draw_scene(np.random.default_rng(seed), stills)
        yield Clip("textures", [_jpeg(scene.render(step)) for step in range(16)])


def validation_clips(data: Path) -> Iterator[Clip]:
    """Some frames of each sequence that was held back."""
    for name in HELD_BACK:
        files = sorted((data / "davis" / name).glob("*.jpg"))[:HELD_BACK_FRAMES]
        yield Clip("davis", [f.read_bytes() for f in files])
    road = data / "video" / HELD_BACK_VIDEO
    starts = range(600, 601)
    yield from video_clips(road, "road", half=False, length=HELD_BACK_FRAMES, starts=starts)


def _jpeg(bgr: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok, "cv2 can write JPEG"
    return bytes(data)


def main() -> None:
    """Pack a data folder into training and validation shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with davis, video, ...")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for prefix, clips in (
        ("train", training_clips(options.data)),
        ("held", validation_clips(options.data)),
    ):
        packer = Packer(options.out, prefix)
        sizes: Counter[str] = Counter()
        for clip in clips:
            packer.add(clip)
            sizes[clip.group] += sum(map(len, clip.frames))
        packer.flush()
        shares = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in sizes.most_common())
        print(f"{options.out}/{prefix}: {sizes.total() / 2**20:.1f} MiB: {shares}")


if __name__ == "__main__":
    main()
