"""Turn labelled pictures, clips and rendered scenes into packs of training pictures; offline.

A pack is a folder of one origin: pictures.npy, (N, 3, h, w) uint8 planes exactly as the runtime
feeds them to the network, and labels.npz, the boxes with a score for each class. Clips have no
labels of their own: a public detector, the teacher, gives them, with its doubts.

    python -m engines.detectors.pack OUT images DIR --split train
    python -m engines.detectors.pack OUT clips TEACHER.onnx CLIP... --until 0.75 --every 4
    python -m engines.detectors.pack OUT street --seeds 1000:1060
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import TensorSpec
from engines.detectors.decode import F32, cell_boxes, suppress
from engines.detectors.preprocess import U8, fill_input, place
from engines.detectors.runtime import Detector
from engines.detectors.signature import COCO80, STREET_CLASSES, STREET_STRIDES, Signature
from streamer.planes import Planes
from streamer.sources.base import Source
from streamer.sources.container import SourceOptions
from streamer.sources.street.camera import CAMERAS
from streamer.sources.street.street import Street
from streamer.sources.uri import open_source

FIRST_TRAINING_SEED = 1000
"""Scenes below are kept for evaluation and the demo."""

_SCENE_FRAMES = range(40, 800, 95)  # far enough apart that all actors have moved on
_HIDDEN = 0.2  # less of an actor in sight than this is background

_DOUBT = 0.15  # what the teacher scores lower is background
_SAME_OBJECT_IOU = 0.5
_KINDS = np.array([0, 1, 2, 1, 2, 2], np.int16)  # persons, two-wheelers and vehicles may overlap


class Pack:
    """Pictures of one origin that are being gathered."""

    def __init__(self, width: int, height: int) -> None:
        image = TensorSpec("planes", (1, 3, height, width), np.dtype("uint8"))
        rows = TensorSpec("rows", (1, 1, 1), np.dtype("float32"))  # not read here
        self._signature = Signature(
            "pack", "anchorfree", image, rows, STREET_CLASSES, "yuv",
            enlarge=False, strides=STREET_STRIDES,
        )  # fmt: skip
        self._pictures: list[U8] = []
        self._contents: list[tuple[int, int]] = []
        self._boxes: list[F32] = []
        self._scores: list[F32] = []

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, planes: Planes, boxes_xyxy: F32, scores: F32) -> None:
        """Scale one picture with its boxes (n, 4), in its own pixels, and scores (n, classes)."""
        out = np.empty((3, self._signature.height, self._signature.width), np.uint8)
        at = fill_input(planes.y, planes.u, planes.v, self._signature, out)
        scale = np.array([at.scale_x, at.scale_y] * 2, np.float32)
        self._pictures.append(out)
        self._contents.append((at.width, at.height))
        self._boxes.append(boxes_xyxy.reshape(-1, 4) * scale)
        self._scores.append(scores.reshape(-1, len(STREET_CLASSES)))

    def save(self, folder: Path) -> None:
        """Write the pack; what was there is replaced."""
        if not self._pictures:
            raise SystemExit(f"{folder}: a pack must hold at least one picture, got none")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "pictures.npy", np.stack(self._pictures))
        counts = [len(boxes) for boxes in self._boxes]
        np.savez(
            folder / "labels.npz",
            boxes_xyxy=np.concatenate(self._boxes).astype(np.float32),
            scores=np.concatenate(self._scores).astype(np.float32),
            picture=np.repeat(np.arange(len(counts)), counts).astype(np.int32),
            content=np.array(self._contents, np.int32),
        )


def labelled_images(folder: Path, split: str) -> Iterator[tuple[Planes, F32, F32]]:
    """Yield the pictures of a folder of images with boxes in YOLO text form.

    Classes are those of COCO; other ones than STREET_CLASSES are left out.
    """
    for path in sorted((folder / split / "images").iterdir()):
        bgr = cv2.imread(str(path))
        if bgr is None:
            raise SystemExit(f"{path}: file must be a picture, got something else; remove it")
        planes = planes_of(bgr)
        height, width = bgr.shape[:2]
        label = folder / split / "labels" / f"{path.stem}.txt"
        classes, boxes = read_yolo_text(label, width, height)
        ours = np.array([COCO80[c] in STREET_CLASSES for c in classes], bool)
        scores = np.zeros((int(ours.sum()), len(STREET_CLASSES)), np.float32)
        for score, index in zip(scores, classes[ours], strict=True):
            score[STREET_CLASSES.index(COCO80[index])] = 1
        yield planes, boxes[ours], scores


def read_yolo_text(path: Path, width: int, height: int) -> tuple[NDArray[np.intp], F32]:
    """Read classes (n,) and boxes_xyxy (n, 4) of a picture; no file means no objects."""
    lines = path.read_text().split() if path.exists() else []
    rows: F32 = np.array(lines, np.float32).reshape(-1, 5)
    size = np.array([width, height], np.float32)
    centre, half = rows[:, 1:3] * size, rows[:, 3:5] * size / 2
    return rows[:, 0].astype(np.intp), np.hstack([centre - half, centre + half])


def taught_clips(
    teacher: Detector, clips: Iterable[Path], until: float, every: int
) -> Iterator[tuple[Planes, F32, F32]]:
    """Yield frames of the first part of each clip, labelled by the teacher."""
    for clip in clips:
        frames = list(decoded(clip))
        for planes in frames[: int(len(frames) * until) : every]:
            outputs = teacher.engine.infer(teacher.prepare(planes.y, planes.u, planes.v))
            output = outputs[teacher.signature.output.name][0]
            boxes, scores = soft_labels(output, teacher.signature)
            at = place(planes.width, planes.height, teacher.signature)
            scale = np.array([at.scale_x, at.scale_y] * 2, np.float32)
            yield planes, boxes / scale, scores


def rendered_scenes(seeds: range) -> Iterator[tuple[Planes, F32, F32]]:
    """Yield frames of rendered streets; what is half hidden is worth less."""
    if seeds.start < FIRST_TRAINING_SEED:
        raise SystemExit(
            f"street: seeds must be {FIRST_TRAINING_SEED} or more, got {seeds.start}; "
            "the ones below are for evaluation"
        )
    for seed in seeds:
        street = Street(seed, camera=CAMERAS[seed % len(CAMERAS)])
        for frame in _SCENE_FRAMES:
            planes = Planes.empty(street.width, street.height)
            street.render(frame, planes)
            seen = [s for s in street.truth(frame).sightings if s.visibility >= _HIDDEN]
            scores = np.zeros((len(seen), len(STREET_CLASSES)), np.float32)
            for score, sighting in zip(scores, seen, strict=True):
                score[STREET_CLASSES.index(sighting.name)] = min(2 * sighting.visibility, 1)
            yield planes, np.array([s.box_xyxy for s in seen], np.float32), scores


def soft_labels(output: F32, signature: Signature) -> tuple[F32, F32]:
    """Read a teacher's boxes (n, 4) with its score for each of our classes (n, classes)."""
    first = 4 + signature.objectness
    ours = [first + signature.classes.index(name) for name in STREET_CLASSES]
    scores = output[:, ours] * (output[:, 4:5] if signature.objectness else 1)
    rows = np.flatnonzero(scores.max(axis=1) >= _DOUBT)
    rows = rows[np.argsort(-scores[rows].max(axis=1), kind="stable")]
    boxes = cell_boxes(output, rows, signature)
    kept = suppress(boxes, _KINDS[scores[rows].argmax(axis=1)], _SAME_OBJECT_IOU)
    return boxes[kept], scores[rows][kept]


def decoded(clip: Path) -> Iterator[Planes]:
    """Yield copies of the frames of a clip."""
    source: Source = open_source(str(clip), options=SourceOptions(threads=1))
    source.open()
    for frame in source.frames():
        planes = Planes.empty(frame.width, frame.height)
        frame.write_to(planes)
        yield planes
    source.close()


def planes_of(bgr: U8) -> Planes:
    """Convert a colour picture; an odd last row or column is left out."""
    height, width = bgr.shape[0] // 2 * 2, bgr.shape[1] // 2 * 2
    flat: NDArray[np.uint8] = cv2.cvtColor(bgr[:height, :width], cv2.COLOR_BGR2YUV_I420)
    return Planes.from_buffer(flat.reshape(-1), width, height)


def main(argv: Sequence[str] | None = None) -> None:
    """Make one pack."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", default="448x288")
    kinds = parser.add_subparsers(dest="kind", required=True)
    images = kinds.add_parser("images")
    images.add_argument("folder", type=Path)
    images.add_argument("--split", default="train")
    clips = kinds.add_parser("clips")
    clips.add_argument("teacher", type=Path)
    clips.add_argument("clips", type=Path, nargs="+")
    clips.add_argument("--until", type=float, default=0.75, help="part of each clip, in time")
    clips.add_argument("--every", type=int, default=1, help="take each n-th frame")
    street = kinds.add_parser("street")
    street.add_argument("--seeds", default="1000:1060", help="first and one behind the last")
    options = parser.parse_args(argv)

    pack = Pack(*(int(n) for n in options.size.split("x")))
    if options.kind == "images":
        examples = labelled_images(options.folder, options.split)
    elif options.kind == "street":
        examples = rendered_scenes(range(*(int(n) for n in options.seeds.split(":"))))
    else:
        teacher = Detector.load(options.teacher, device="cpu")
        examples = taught_clips(teacher, options.clips, options.until, options.every)
    for example in examples:
        pack.add(*example)
    pack.save(options.out)
    sys.stdout.write(f"{options.out}: {len(pack)} pictures\n")


if __name__ == "__main__":
    main()
