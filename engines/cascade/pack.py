"""Turn labelled pictures and rendered streets into packs for training the cascade; offline.

A pack is a folder of one origin: pictures.npy, (N, h, w, 3) uint8 Y, U, V exactly as the runtime
feeds them to the network, and labels.npy, (N, h, w) uint8 in the order of CAMVID_CLASSES, 255 where
nobody judged.

    python -m engines.cascade.pack OUT DIR --split train
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

U8 = NDArray[np.uint8]


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


def planes_of(bgr: U8) -> tuple[U8, U8, U8]:
    """Convert a colour picture to the three planes of a decoder; odd sizes are padded."""
    height, width = bgr.shape[:2]
    even = cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    high, wide = even.shape[0], even.shape[1]
    flat = cv2.cvtColor(even, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    y, u, v = np.split(flat, [high * wide, high * wide * 5 // 4])
    chroma = (high // 2, wide // 2)
    return y.reshape(high, wide)[:height, :width], u.reshape(chroma), v.reshape(chroma)


def packed_picture(bgr: U8, size: tuple[int, int]) -> U8:
    """(h, w, 3) Y, U, V at one size (width, height), chroma scaled as the runtime does."""
    scaled = [cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in planes_of(bgr)]
    picture: U8 = np.stack(scaled, axis=-1)
    return picture


def main(argv: Sequence[str] | None = None) -> None:
    """Make one pack."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", default="480x360")
    options = parser.parse_args(argv)
    width, height = (int(n) for n in options.size.split("x"))
    pictures, labels = [], []
    for _, bgr, label in labelled_pictures(options.folder, options.split):
        pictures.append(packed_picture(bgr, (width, height)))
        labels.append(cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST))
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "pictures.npy", np.stack(pictures))
    np.save(options.out / "labels.npy", np.stack(labels))
    sys.stdout.write(f"{options.out}: {len(pictures)} pictures\n")


if __name__ == "__main__":
    main()
