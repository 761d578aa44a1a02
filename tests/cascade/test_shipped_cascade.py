"""The shipped cascade: its size, what it says of itself, and that it knows streets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_cascade import TRAIN_ALONE
from engines.cascade.classes import CAMVID_CLASSES, PALETTE_RGB
from engines.cascade.evaluate import Picture, by_rule, densely, load_dense, measure
from engines.cascade.pack import labelled_pictures, planes_of
from engines.cascade.runtime import Segmenter, find_cascade
from engines.cascade.signature import FILES
from engines.onnxfile import read_metadata
from streamer.planes import Planes
from streamer.sources.street.street import Street


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    made = Segmenter.load()
    yield made
    made.close()


def test_it_is_small_and_names_its_licence() -> None:
    folder = find_cascade("cascade")
    assert sum((folder / file).stat().st_size for file in FILES) <= 6_000_000
    for file in FILES:
        assert read_metadata(folder / file)["licence"] == "CC BY-NC 4.0"


def test_it_knows_the_classes_of_the_overlay(segmenter: Segmenter) -> None:
    assert segmenter.classes == CAMVID_CLASSES
    assert (segmenter.palette_rgb == PALETTE_RGB).all()
    assert len(set(map(tuple, PALETTE_RGB.tolist()))) == len(CAMVID_CLASSES)


def test_the_recipe_gives_what_its_card_says_of_unseen_streets(data_dir: Path) -> None:
    labelled = list(labelled_pictures(data_dir / "camvid", "val"))[::12]
    pictures = [Picture(planes_of(bgr), truth) for _, bgr, truth in labelled]
    segmenter, dense = Segmenter.load(TRAIN_ALONE), load_dense(TRAIN_ALONE, "auto", 1, None)
    ways = [by_rule(segmenter, segmenter.stages.rule), densely(segmenter, dense)]
    ours, plain = measure(ways, pictures, len(segmenter.classes), borders=0)
    segmenter.close()
    dense.close()
    assert ours.scores.miou() > 0.58
    assert ours.scores.miou() > plain.scores.miou() - 0.02
    assert ours.decided[0] > 0.5


def test_the_shipped_weights_know_their_own_streets(segmenter: Segmenter, data_dir: Path) -> None:
    labelled = list(labelled_pictures(data_dir / "camvid", "train"))[::40]
    pictures = [Picture(planes_of(bgr), truth) for _, bgr, truth in labelled]
    (ours,) = measure([by_rule(segmenter, segmenter.stages.rule)], pictures, 11, borders=0)
    assert ours.scores.miou() > 0.6


def test_a_rendered_street_that_it_was_not_trained_on(segmenter: Segmenter) -> None:
    street = Street(3)
    planes = Planes.empty(street.width, street.height)
    street.render(50, planes)
    found = segmenter.segment((planes.y, planes.u, planes.v))
    truth = street.labels(50)
    rows = np.arange(found.height) * street.height // found.height
    columns = np.arange(found.width) * street.width // found.width
    assert (found.labels == truth[rows][:, columns]).mean() > 0.7
