"""Turn labelled clips, videos, pictures and rendered streets into packs of small clips; offline.

    python -m engines.off.pack OUT clips DIR              # labels.csv: file,label,source
    python -m engines.off.pack OUT street --seeds 1000:1040
    python -m engines.off.pack OUT unlabelled FILE_OR_FOLDER...

Clips are packed at twice the rate of a recogniser, so that training can draw its phase and speed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.off.crops import around, fill_crop, fill_frame
from engines.off.shards import UNLABELLED, Packer
from streamer.planes import Planes
from streamer.sources.base import Source
from streamer.sources.container import SourceOptions
from streamer.sources.street.camera import CAMERAS
from streamer.sources.street.street import Sighting, Street
from streamer.sources.uri import open_source

U8 = NDArray[np.uint8]

RATE = 16.0
FRAME_SIZE = (320, 192)
CROP_SIZE = 128
FIGHT_CLASSES = ("normal", "fight")
STREET_CLASSES = ("walk", "run", "wave", "fall", "stand")
FIRST_TRAINING_SEED = 1000
"""Streets below are kept for evaluation and the demo."""
LONGEST_CLIP_S = 4.0
LONGEST_VIDEO_S = 40.0
STREET_S = 24.0
SHORTEST_S = 2.0

_SEEN = 0.6  # less of a person in sight, or in the picture, shows no action
_MIN_HEIGHT_PX = 40.0
_STREET_BEGIN_S = 3.0
_SUFFIXES = (".jpg", ".png")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row of labels.csv."""

    path: Path
    label: str
    source: str


def read_labels(folder: Path, classes: Sequence[str]) -> list[Labelled]:
    """Read labels.csv of a folder of clips.

    Raises:
        SystemExit: there is none, a column or a file is missing, a file stands there twice, or a
            label is not one of the classes.
    """
    path = folder / "labels.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SystemExit(
            f"{path}: must be readable, got {error.strerror}; give the folder with the clips"
        ) from None
    if not rows or not {"file", "label", "source"} <= rows[0].keys():
        raise SystemExit(
            f"{path}: must have rows of file, label and source, got "
            f"{sorted(rows[0]) if rows else 'no row'}; write a first line file,label,source"
        )
    found: dict[str, Labelled] = {}
    for number, row in enumerate(rows, 2):
        where = f"{path}:{number}"
        if row["label"] not in classes:
            raise SystemExit(
                f"{where}: label must be one of {', '.join(classes)}, got {row['label']!r}; "
                "correct it, or use a network with that class"
            )
        if row["file"] in found:
            raise SystemExit(f"{where}: {row['file']} must stand here once; remove one row")
        clip = folder / row["file"]
        if not clip.is_file():
            raise SystemExit(
                f"{where}: file must be in {folder}, got {row['file']!r}, which is not; "
                "remove the row or fetch the clip"
            )
        found[row["file"]] = Labelled(clip, row["label"], row["source"])
    return list(found.values())


def timed_frames(path: Path) -> Iterator[tuple[float, Planes]]:
    """Yield each frame of a video with its media time in seconds; its planes are reused."""
    source: Source = open_source(str(path), options=SourceOptions(threads=1))
    source.open()
    planes: Planes | None = None
    try:
        for frame in source.frames():
            if planes is None or (planes.width, planes.height) != (frame.width, frame.height):
                planes = Planes.empty(frame.width, frame.height)
            frame.write_to(planes)
            yield float(frame.times.pts * frame.times.time_base), planes
    finally:
        source.close()


def steady_frames(
    path: Path,
    *,
    rate: float = RATE,
    size: tuple[int, int] = FRAME_SIZE,
    longest_s: float = LONGEST_CLIP_S,
) -> list[U8]:
    """Scale a video's frames and resample them to a steady rate, each the nearest in time."""
    times, frames = [], []
    for time_s, planes in timed_frames(path):
        times.append(time_s)
        frames.append(small(planes, size))
    since = np.array(times) - times[0]
    count = int(min(since[-1], longest_s) * rate + 0.5) + 1
    return [frames[int(np.abs(since - k / rate).argmin())] for k in range(count)]


def small(planes: Planes, size: tuple[int, int]) -> U8:
    """Scale a whole frame to (3, h, w)."""
    out = np.empty((3, size[1], size[0]), np.uint8)
    fill_frame((planes.y, planes.u, planes.v), out)
    return out


def pack_clips(folder: Path, classes: Sequence[str]) -> Packer:
    """Pack all clips of a folder with labels.csv."""
    packer = Packer(tuple(classes), RATE)
    for clip in read_labels(folder, classes):
        frames = steady_frames(clip.path)
        labels = [classes.index(clip.label)] * len(frames)
        packer.add(frames, labels, source=clip.source, name=clip.path.name)
    return packer


def pack_street(seeds: range) -> Packer:
    """Follow every person of rendered streets and pack the square around it.

    Each identity of each seed is one clip; its source is the seed.
    """
    if seeds.start < FIRST_TRAINING_SEED:
        raise SystemExit(
            f"street: seeds must be {FIRST_TRAINING_SEED} or more, got {seeds.start}; "
            "the ones below are for evaluation"
        )
    packer = Packer(STREET_CLASSES, RATE)
    for seed in seeds:
        for identity, (frames, labels) in street_persons(seed, seconds=STREET_S).items():
            packer.add(frames, labels, source=f"{seed}", name=f"{seed}/{identity}")
    return packer


def street_persons(seed: int, *, seconds: float) -> dict[int, tuple[list[U8], list[int]]]:
    """Render a street and cut out its persons: crops and labels by identity, without gaps."""
    street = Street(seed, fps=Fraction(int(RATE)), camera=CAMERAS[seed % len(CAMERAS)])
    planes = Planes.empty(street.width, street.height)
    persons: dict[int, tuple[list[U8], list[int]]] = defaultdict(lambda: ([], []))
    ended: set[int] = set()
    first = int(_STREET_BEGIN_S * RATE)
    for frame in range(first, first + int(seconds * RATE)):
        seen = {s.identity: s for s in street.truth(frame).sightings if shows_action(s)}
        ended |= persons.keys() - seen.keys()  # one that comes back would leave a gap
        if seen.keys() - ended:
            street.render(frame, planes)
        for identity in seen.keys() - ended:
            sighting = seen[identity]
            out = np.empty((3, CROP_SIZE, CROP_SIZE), np.uint8)
            fill_crop((planes.y, planes.u, planes.v), around(sighting.box_xyxy), out)
            frames, labels = persons[identity]
            frames.append(out)
            assert sighting.action is not None
            labels.append(STREET_CLASSES.index(sighting.action))
    return {who: crops for who, crops in persons.items() if len(crops[0]) >= SHORTEST_S * RATE}


def shows_action(sighting: Sighting) -> bool:
    """Whether an actor is a person on foot who is large and free enough to be watched."""
    _, top, _, bottom = sighting.box_xyxy
    large = bottom - top >= _MIN_HEIGHT_PX or sighting.action == "fall"
    return sighting.action is not None and sighting.visibility >= _SEEN and large


def pack_unlabelled(paths: Sequence[Path]) -> Packer:
    """Pack videos, one clip each, and folders of pictures, a clip of one frame for each."""
    packer = Packer((), RATE)
    for path in paths:
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES)
            for file in files:
                packer.add([_picture(file)], [UNLABELLED], source=path.name, name=file.name)
        else:
            frames = steady_frames(path, longest_s=LONGEST_VIDEO_S)
            packer.add(frames, [UNLABELLED] * len(frames), source=path.name, name=path.name)
    return packer


def _picture(path: Path) -> U8:
    bgr = cv2.imread(str(path))
    if bgr is None:
        raise SystemExit(f"{path}: file must be a picture, got something else; remove it")
    height, width = bgr.shape[0] // 2 * 2, bgr.shape[1] // 2 * 2
    flat = cv2.cvtColor(bgr[:height, :width], cv2.COLOR_BGR2YUV_I420)
    return small(Planes.from_buffer(flat.reshape(-1), width, height), FRAME_SIZE)


def main(argv: Sequence[str] | None = None) -> None:
    """Make one pack."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    kinds = parser.add_subparsers(dest="kind", required=True)
    clips = kinds.add_parser("clips")
    clips.add_argument("folder", type=Path)
    clips.add_argument("--classes", default=",".join(FIGHT_CLASSES))
    street = kinds.add_parser("street")
    street.add_argument("--seeds", default="1000:1040", help="first and one behind the last")
    unlabelled = kinds.add_parser("unlabelled")
    unlabelled.add_argument("paths", type=Path, nargs="+")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    if options.kind == "clips":
        packer = pack_clips(options.folder, options.classes.split(","))
    elif options.kind == "street":
        packer = pack_street(range(*(int(n) for n in options.seeds.split(":"))))
    else:
        packer = pack_unlabelled(options.paths)
    packer.save(options.out)
    sys.stdout.write(f"{options.out}: {len(packer.source)} clips, {len(packer.frames)} frames\n")


if __name__ == "__main__":
    main()
