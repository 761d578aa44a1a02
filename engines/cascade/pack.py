"""Turn labelled pictures and rendered streets into packs for training the cascade; offline.

A pack is a folder of one origin: pictures.npy, (N, h, w, 3) uint8 Y, U, V exactly as the runtime
feeds them to the network, and labels.npy, (N, h, w) uint8 in the order of CAMVID_CLASSES, 255 where
nobody judged.

    python -m engines.cascade.pack OUT images DIR --split train
    python -m engines.cascade.pack OUT street --seeds 1000:1024
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.cascade.classes import CAMVID_CLASSES
from engines.cascade.examples import IGNORE
from streamer.planes import Planes
from streamer.sources.street.camera import CAMERAS
from streamer.sources.street.street import Street

U8 = NDArray[np.uint8]
FIRST_TRAINING_SEED = 1000
"""Scenes below are kept for evaluation and the demo."""

_SCENE_FRAMES = (40, 500)  # far enough apart that all actors have moved on
_RENDERED = (1280, 720)  # of a camera: shrinking a frame leaves the same traces as at run time


def labelled_pictures(folder: Path, split: str) -> Iterator[tuple[str, U8, U8]]:
    """Yield name, BGR picture and labels of DIR/NAME/images with DIR/NAME/labels.

    Raises:
        SystemExit: a folder, a label or a size is wrong; the text says which file.
    """
    images, labels = folder / split / "images", folder / split / "labels"
    paths = sorted(images.iterdir()) if images.is_dir() else []
    if not paths:
        raise SystemExit(f"{images}: folder must hold pictures, got none; check --data and --split")
    for path in paths:
        bgr = cv2.imread(str(path))
        label_path = labels / f"{path.stem}.png"
        label = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        if bgr is None or label is None:
            wrong = path if bgr is None else label_path
            raise SystemExit(f"{wrong}: file must be a picture, got none; remove or replace it")
        if label.ndim != 2 or label.shape != bgr.shape[:2]:
            raise SystemExit(
                f"{label_path}: labels must be one channel of {bgr.shape[:2]}, got {label.shape}; "
                "save them with the size of the picture"
            )
        yield path.stem, bgr, np.where(label < len(CAMVID_CLASSES), label, IGNORE).astype(np.uint8)


def rendered_scenes(seeds: range, size: tuple[int, int]) -> Iterator[tuple[U8, U8]]:
    """Yield packed pictures and exact labels of rendered streets.

    Raises:
        SystemExit: a seed is kept for evaluation.
    """
    if seeds.start < FIRST_TRAINING_SEED:
        raise SystemExit(
            f"street: seeds must be {FIRST_TRAINING_SEED} or more, got {seeds.start}; "
            "the ones below are for evaluation"
        )
    for seed in seeds:
        street = Street(seed, *_RENDERED, camera=CAMERAS[seed % len(CAMERAS)])
        for frame in _SCENE_FRAMES:
            planes = Planes.empty(street.width, street.height)
            street.render(frame, planes)
            labels = street.labels(frame).astype(np.uint8)
            yield (
                packed((planes.y, planes.u, planes.v), size),
                cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST),
            )


def planes_of(bgr: U8) -> tuple[U8, U8, U8]:
    """Convert a colour picture to the three planes of a decoder; odd sizes are padded."""
    height, width = bgr.shape[:2]
    even = cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    high, wide = even.shape[0], even.shape[1]
    flat = cv2.cvtColor(even, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    y, u, v = np.split(flat, [high * wide, high * wide * 5 // 4])
    chroma = (high // 2, wide // 2)
    return y.reshape(high, wide)[:height, :width], u.reshape(chroma), v.reshape(chroma)


def packed(planes: tuple[U8, U8, U8], size: tuple[int, int]) -> U8:
    """(h, w, 3) Y, U, V at one size (width, height), chroma scaled as the runtime does."""
    scaled = [cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in planes]
    picture: U8 = np.stack(scaled, axis=-1)
    return picture


def main(argv: Sequence[str] | None = None) -> None:
    """Make one pack."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    kinds = parser.add_subparsers(dest="kind", required=True)
    images = kinds.add_parser("images")
    images.add_argument("folder", type=Path)
    images.add_argument("--split", default="train")
    images.add_argument("--size", default="480x360")
    street = kinds.add_parser("street")
    street.add_argument("--seeds", default="1000:1024", help="first and one behind the last")
    street.add_argument("--size", default="480x270")
    options = parser.parse_args(argv)
    width, height = (int(n) for n in options.size.split("x"))
    examples: Iterator[tuple[U8, U8]]
    if options.kind == "images":
        examples = (
            (
                packed(planes_of(bgr), (width, height)),
                cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST),
            )
            for _, bgr, label in labelled_pictures(options.folder, options.split)
        )
    else:
        seeds = range(*(int(n) for n in options.seeds.split(":")))
        examples = rendered_scenes(seeds, (width, height))
    pictures, labels = zip(*examples, strict=True)
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "pictures.npy", np.stack(pictures))
    np.save(options.out / "labels.npy", np.stack(labels))
    sys.stdout.write(f"{options.out}: {len(pictures)} pictures\n")


if __name__ == "__main__":
    main()
