"""Turn what a detector finds in clips, pictures and rendered scenes into crops that are labelled
right or wrong; offline.

A detector's own false positives are the hardest negatives there are. What a better detector, the
teacher, sees in the same place decides, with its doubts; pictures and scenes bring their own truth.

    python -m engines.classifiers.pack OUT clips TEACHER.onnx CLIP... --part 0:0.75 --every 5
    python -m engines.classifiers.pack OUT images DIR --split train
    python -m engines.classifiers.pack OUT street --seeds 1000:1030
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.classifiers.signature import CHECK_MARGIN, CHECK_SIZE, GROUPS
from engines.crops import CropFormat, fill_crops
from engines.detectors.decode import F32, box_iou
from engines.detectors.pack import decoded, labelled_images, rendered_scenes, soft_labels
from engines.detectors.preprocess import place
from engines.detectors.runtime import Detections, Detector
from engines.detectors.signature import STREET_CLASSES
from streamer.planes import Planes

SHIFT_PX = 2
"""Pixels that a stored crop is larger on each side, so that training can move it."""

Example = tuple[Planes, F32, F32]
"""A picture, its true boxes (n, 4) and their scores for each of STREET_CLASSES (n, 6)."""

_LOWEST = 0.05  # of the detector's scores; a little below what it is asked for when it runs
_NO_OVERLAP, _SURE_OVERLAP = 0.4, 0.6
_NO_SCORE, _SURE_SCORE = 0.3, 0.6


def crop_format() -> CropFormat:
    """Crops as they are stored: a little larger than those that the network sees."""
    width, height = CHECK_SIZE
    grown = (width + 2 * SHIFT_PX) / width
    margin = ((1 + 2 * CHECK_MARGIN) * grown - 1) / 2
    return CropFormat(width + 2 * SHIFT_PX, height + 2 * SHIFT_PX, "yuv", margin)


def truth_of(boxes_xyxy: F32, groups: NDArray[np.intp], true_xyxy: F32, true_scores: F32) -> F32:
    """How right each box (n, 4) is, 0..1: the best of the true ones of its group that it covers.

    Args:
        boxes_xyxy: (n, 4) found.
        groups: (n,) what each is taken for, index into GROUPS.
        true_xyxy: (m, 4).
        true_scores: (m, classes) of STREET_CLASSES.
    """
    if not len(boxes_xyxy) or not len(true_xyxy):
        return np.zeros(len(boxes_xyxy), np.float32)
    group_scores = np.stack(
        [true_scores[:, [STREET_CLASSES.index(n) for n in names]].max(axis=1) for names in GROUPS]
    )
    overlap = _ramp(box_iou(boxes_xyxy, true_xyxy), _NO_OVERLAP, _SURE_OVERLAP)
    sure = _ramp(group_scores, _NO_SCORE, _SURE_SCORE)[groups]
    right: F32 = (overlap * sure).max(axis=1).astype(np.float32)
    return right


def mined(detector: Detector, examples: Iterable[Example]) -> dict[str, NDArray[Any]]:
    """Collect the detector's boxes on some pictures, each with how right it is."""
    wanted = crop_format()
    crops, groups, scores, truths = [], [], [], []
    for planes, true_xyxy, true_scores in examples:
        found = detector.detect(planes.y, planes.u, planes.v)
        group = groups_of(found)
        out = np.empty((len(found), 3, wanted.height, wanted.width), np.uint8)
        fill_crops((planes.y, planes.u, planes.v), found.boxes_xyxy, wanted, out)
        crops.append(out)
        groups.append(group)
        scores.append(found.scores)
        truths.append(truth_of(found.boxes_xyxy, group, true_xyxy, true_scores))
    return {
        "crops": np.concatenate(crops),
        "groups": np.concatenate(groups).astype(np.int64),
        "scores": np.concatenate(scores),
        "truths": np.concatenate(truths),
    }


def groups_of(found: Detections) -> NDArray[np.intp]:
    """Index into GROUPS of each box of a detector that knows STREET_CLASSES."""
    table = [next(g for g, names in enumerate(GROUPS) if name in names) for name in STREET_CLASSES]
    return np.array(table, np.intp)[found.classes]


def taught(
    teacher: Detector, clips: Iterable[Path], part: tuple[float, float], every: int
) -> Iterator[Example]:
    """Yield frames of a part, in time, of each clip, labelled by the teacher."""
    for clip in clips:
        frames = list(decoded(clip))
        first, last = (int(len(frames) * share) for share in part)
        for planes in frames[first:last:every]:
            outputs = teacher.engine.infer(teacher.prepare(planes.y, planes.u, planes.v))
            boxes, scores = soft_labels(
                outputs[teacher.signature.output.name][0], teacher.signature
            )
            at = place(planes.width, planes.height, teacher.signature)
            scale = np.array([at.scale_x, at.scale_y] * 2, np.float32)
            yield planes, np.asarray(boxes / scale, np.float32), scores


def _ramp(value: F32, low: float, high: float) -> F32:
    return np.asarray(np.clip((value - low) / (high - low), 0, 1), np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """Make one pack."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="an .npz file")
    parser.add_argument("--detector", default="street", help="whose boxes are checked")
    kinds = parser.add_subparsers(dest="kind", required=True)
    clips = kinds.add_parser("clips")
    clips.add_argument("teacher", type=Path)
    clips.add_argument("clips", type=Path, nargs="+")
    clips.add_argument("--part", default="0:0.75", help="of each clip, in time")
    clips.add_argument("--every", type=int, default=1, help="take each n-th frame")
    images = kinds.add_parser("images")
    images.add_argument("folder", type=Path)
    images.add_argument("--split", default="train")
    street = kinds.add_parser("street")
    street.add_argument("--seeds", default="1000:1030", help="first and one behind the last")
    options = parser.parse_args(argv)
    detector = Detector.load(options.detector, device="cpu", score=_LOWEST)
    if options.kind == "images":
        examples = labelled_images(options.folder, options.split)
    elif options.kind == "street":
        examples = rendered_scenes(range(*(int(n) for n in options.seeds.split(":"))))
    else:
        first, last = (float(share) for share in options.part.split(":"))
        teacher = Detector.load(options.teacher, device="cpu")
        examples = taught(teacher, options.clips, (first, last), options.every)
    pack = mined(detector, examples)
    np.savez(
        options.out,
        crops=pack["crops"],
        groups=pack["groups"],
        scores=pack["scores"],
        truths=pack["truths"],
    )
    right = float((pack["truths"] >= 0.5).mean())
    sys.stdout.write(f"{options.out}: {len(pack['crops'])} crops, {right:.0%} right\n")


if __name__ == "__main__":
    main()
