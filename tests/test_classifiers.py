"""Second looks at boxes: what is cut out, what a file must say, what its answers mean."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto
from tiny_networks import VERIFIER, save_means

from engines.classifiers.export import export, fit
from engines.classifiers.model import CheckNet, Config
from engines.classifiers.pack import crop_format, truth_of
from engines.classifiers.runtime import Classifier
from engines.classifiers.train import Crops, Options, augmented, check_loss, load_net, train
from engines.classifiers.train import main as train_main
from engines.crops import CropFormat, Piece, fill_crops
from engines.detectors.signature import STREET_CLASSES
from engines.errors import ModelError
from engines.zoo import find_model
from streamer.planes import Planes
from streamer.sources.street import Street

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quarters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes of 40 x 24 whose four quarters have luma 40, 80, 120, 160, and chroma 100 and 200."""
    y = np.array([[40, 80], [120, 160]], np.uint8).repeat(12, 0).repeat(20, 1)
    return y, np.full((12, 20), 100, np.uint8), np.full((12, 20), 200, np.uint8)


def means(boxes: list[list[float]], wanted: CropFormat, dtype: type = np.uint8) -> np.ndarray:
    out = np.empty((len(boxes), 3, wanted.height, wanted.width), dtype)
    fill_crops(quarters(), np.array(boxes, np.float32), wanted, out)
    return out.astype(np.float64).mean(axis=(2, 3))


def test_a_crop_shows_its_box():
    boxes = [[0, 0, 20, 12], [20, 0, 40, 12], [0, 12, 20, 24], [20, 12, 40, 24]]
    expected = [[luma, 100, 200] for luma in (40, 80, 120, 160)]
    assert means(boxes, CropFormat(8, 8)).tolist() == expected


def test_a_crop_may_be_smaller_than_a_pixel_or_reach_out_of_the_frame():
    boxes = [[5.2, 5.3, 5.4, 5.5], [39.9, 23.9, 40, 24], [-50, -50, 20, 12], [60, 60, 70, 70]]
    assert means(boxes, CropFormat(8, 8))[:, 0].tolist() == [40, 160, 40, 160]


def test_the_margin_is_part_of_the_box_on_each_side():
    out = np.empty((1, 3, 12, 12), np.uint8)
    fill_crops(
        quarters(), np.array([[8, 4, 16, 8]], np.float32), CropFormat(12, 12, margin=1.0), out
    )
    # 0..24 across: five sixths of it lie left of the border at 20.
    assert out[0, 0, 0, :9].tolist() == [40] * 9
    assert out[0, 0, 0, 11] == 80


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_colours_are_converted_and_normalised(colour):
    wanted = CropFormat(8, 8, colour, mean=(10, 20, 30), scale=(1, 0.5, 0.25))
    raw = means([[0, 0, 20, 12]], CropFormat(8, 8, colour), np.float32)[0]
    found = means([[0, 0, 20, 12]], wanted, np.float32)[0]
    assert found == pytest.approx((raw - [10, 20, 30]) * [1, 0.5, 0.25])
    red = raw[0 if colour == "rgb" else 2]
    assert red == pytest.approx(255 / 219 * (40 - 16) + 255 / 112 * 0.701 * 72, abs=1)


def test_a_fixed_batch_is_filled_up_and_not_overfilled(tmp_path):
    path = save_means(tmp_path / "m.onnx", VERIFIER, batch=4)
    classifier = Classifier.load(path, device="cpu")
    boxes = np.array([[0, 0, 20, 12]] * 3, np.float32)
    said = classifier.network.look([Piece(quarters(), boxes[:1]), Piece(quarters(), boxes[1:])])
    assert said.shape == (3, 3)
    assert said[:, 0] == pytest.approx(0.1 * (40 - 128), rel=1e-5)
    with pytest.raises(ValueError, match="boxes must be at most 4 a call, got 6; send fewer"):
        classifier.network.prepare([Piece(quarters(), boxes)] * 2)
    classifier.close()


def test_a_verifier_weighs_both_opinions(tmp_path):
    said = VERIFIER | {"fusion": "1,0.5,-0.25"}
    classifier = Classifier.load(save_means(tmp_path / "v.onnx", said), device="cpu")
    columns = classifier.columns(("person", "dog", "truck"))
    assert columns.tolist() == [0, -1, 2]
    logits = np.array([[2, 0, 0], [0, 0, -3]], np.float32)
    scores = classifier.second_opinion(
        np.array([0.5, 0.8], np.float32), logits, columns[np.array([0, 2])]
    )
    expected = [1 / (1 + np.exp(-(0 + 1 - 0.25))), 1 / (1 + np.exp(-(np.log(4) - 1.5 - 0.25)))]
    assert scores == pytest.approx(expected, rel=1e-5)
    extremes = classifier.second_opinion(np.array([0, 1], np.float32), logits, columns[[0, 2]])
    assert np.isfinite(extremes).all()
    classifier.close()


def test_the_shipped_verifier_knows_a_box_from_one_beside_it():
    path = find_model("street-check")
    assert path.stat().st_size < 500_000
    classifier = Classifier.load("street-check", device="cpu")
    assert classifier.columns(STREET_CLASSES).tolist() == [0, 1, 2, 1, 2, 2]
    street, planes = Street(3, 640, 360), Planes.empty(640, 360)
    street.render(120, planes)
    actors = [s for s in street.truth(120).sightings if s.visibility > 0.9]
    boxes = np.array([actor.box_xyxy for actor in actors], np.float32)
    beside = boxes + np.tile(boxes[:, 2:] - boxes[:, :2], 2) * [-0.7, 0.5, -0.7, 0.5]
    judge = classifier.columns([actor.name for actor in actors])
    opinions = [
        classifier.second_opinion(
            np.full(len(boxes), 0.5, np.float32),
            classifier.network.look([Piece((planes.y, planes.u, planes.v), each)]),
            judge,
        )
        for each in (boxes, beside.astype(np.float32))
    ]
    assert len(actors) >= 4
    assert np.median(opinions[0]) > np.median(opinions[1]) + 0.2
    classifier.close()


def test_labels_of_classes_and_of_attributes(tmp_path):
    logits = np.array([[3, 0, 0], [0.1, 0, 0], [2, -2, 2]], np.float32)
    said = VERIFIER | {"names": "taxi,van,bus", "kind": "classes"}
    del said["accepts"]
    classes = Classifier.load(save_means(tmp_path / "c.onnx", said), device="cpu")
    assert classes.labels(logits, 0.6) == ["taxi", "", ""]
    assert classes.columns(("person", "dog")).tolist() == [0, 0]
    said["kind"] = "attributes"
    attributes = Classifier.load(save_means(tmp_path / "a.onnx", said), device="cpu")
    assert attributes.labels(logits, 0.6) == ["taxi", "", "taxi bus"]
    assert attributes.labels(np.empty((0, 3), np.float32), 0.6) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"family": "cats"}, "family=streamer.classifier"),
        ({"kind": "oracle"}, "'oracle'"),
        ({"colour": "hsv"}, "'hsv'"),
        ({"fusion": "1,2"}, "not enough values"),
        ({"mean": "1,x,2"}, "could not convert"),
    ],
)
def test_a_file_that_does_not_say_what_it_is_is_refused(tmp_path, change, reason):
    path = save_means(tmp_path / "m.onnx", VERIFIER | change)
    with pytest.raises(ModelError, match="metadata of a classifier must give") as caught:
        Classifier.load(path, device="cpu")
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"names": "a,b"}, TensorProto.UINT8),
        ({"accepts": "person,car"}, TensorProto.UINT8),
        ({}, TensorProto.INT32),
    ],
)
def test_a_description_that_does_not_fit_the_network_is_refused(tmp_path, change, kind):
    path = save_means(tmp_path / "m.onnx", VERIFIER | change, kind=kind)
    with pytest.raises(ModelError, match="must take uint8 or float32 Nx3xHxW and give Nx"):
        Classifier.load(path, device="cpu")


def test_any_classifier_can_be_described_so_that_it_is_known(tmp_path):
    plain, described = save_means(tmp_path / "p.onnx", {"author": "me"}), tmp_path / "d.onnx"
    with pytest.raises(ModelError, match=re.escape("engines.classifiers.describe")):
        Classifier.load(plain, device="cpu")
    command = [sys.executable, "-m", "engines.classifiers.describe", str(plain), str(described)]
    options = ["--kind", "classes", "--names", "taxi,van,bus", "--colour", "yuv"]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True, timeout=60)
    known = Classifier.load(described, device="cpu")
    assert known.signature.names == ("taxi", "van", "bus")
    assert known.engine.metadata["author"] == "me"
    wrong = [*command[:-1], str(tmp_path / "w.onnx"), *options[:3], "taxi,van", *options[4:]]
    done = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "a classifier of 2 names must take" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.onnx", "p.onnx"]


def test_truth_needs_overlap_and_a_teacher_that_is_sure():
    box = np.array([[0, 0, 10, 10]] * 4, np.float32)
    true = np.array([[0, 0, 10, 10], [0, 0, 5, 10]], np.float32)
    scores = np.zeros((2, 6), np.float32)
    scores[0, 0], scores[1, 2] = 0.45, 0.9  # a doubtful person; half of it a car
    groups = np.array([0, 1, 2, 0])
    assert truth_of(box, groups, true, scores) == pytest.approx([0.5, 0, 0.5, 0.5], abs=1e-4)
    assert truth_of(box[:0], groups[:0], true, scores).shape == (0,)
    assert truth_of(box, groups, true[:0], scores[:0]).tolist() == [0] * 4


@pytest.mark.parametrize(("width", "height"), [(48, 64), (32, 16)])
def test_every_parameter_learns(width, height):
    net = CheckNet(Config(width, height))
    logits = net(torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8))
    assert logits.shape == (4, 3)
    truths = torch.tensor([0.0, 1, 0.5, 1])
    check_loss(logits, torch.tensor([0, 1, 2, 0]), truths).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="multiples of 16, got 40 and 64; round them up"):
        Config(40, 64)


def make_pack(path: Path, count: int = 64) -> Path:
    """Crops that are right when they are bright."""
    random = np.random.default_rng(1)
    wanted = crop_format()
    truths = (np.arange(count) % 2).astype(np.float32)
    noise = random.integers(0, 60, (count, 3, wanted.height, wanted.width))
    crops = (noise + 40 + 110 * truths[:, None, None, None]).astype(np.uint8)
    scores = random.uniform(0.2, 0.8, count).astype(np.float32)
    groups = random.integers(0, 3, count)
    np.savez(path, crops=crops, groups=groups, scores=scores, truths=truths)
    return path


def test_training_export_and_runtime_agree(tmp_path):
    pack, run, path = make_pack(tmp_path / "p.npz"), tmp_path / "run.pt", tmp_path / "n.onnx"
    train_main([str(run), "--minutes", "0.08", "--mix", f"{pack}=1"])
    net = load_net(run)
    difference = export(net, path, (1, 2, 0.5))
    assert difference < 0.02
    assert path.stat().st_size < 500_000
    classifier = Classifier.load(path, device="cpu")
    assert classifier.signature.fusion == (1, 2, 0.5)
    crops = np.load(pack)["crops"][:, :, 2:-2, 2:-2]
    said = classifier.engine.infer({"planes": np.ascontiguousarray(crops)})["logits"]
    with torch.no_grad():
        reference = net(torch.from_numpy(np.ascontiguousarray(crops))).numpy()
    assert said == pytest.approx(reference, abs=0.1)
    own = said[np.arange(64), np.load(pack)["groups"]]
    right = np.load(pack)["truths"] > 0
    assert own[right].mean() > own[~right].mean() + 1, "it has learned what is bright"


def test_training_is_repeatable(tmp_path):
    crops = Crops({make_pack(tmp_path / "p.npz"): 1.0}, Config())
    draws = [crops.draw(8, np.random.default_rng(5)) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*draws, strict=True))
    nets = [train(crops, Config(), Options(minutes=0.0)) for _ in range(2)]
    assert torch.equal(nets[0].head[2].weight, nets[1].head[2].weight)


def test_augmentation_keeps_size_and_range():
    random = np.random.default_rng(0)
    stored = random.integers(0, 256, (3, 68, 52), np.uint8)
    moved = [augmented(stored, 48, 64, random) for _ in range(20)]
    assert {each.shape for each in moved} == {(3, 64, 48)}
    assert all(each.dtype == np.uint8 for each in moved)
    assert any(not np.array_equal(moved[0], each) for each in moved[1:])


def outcomes(count: int, weights: list[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Opinions, and what came of them if this is what they weigh."""
    random = np.random.default_rng(seed)
    inputs = random.normal(0, 2, (count, 2))
    chance = 1 / (1 + np.exp(-(inputs @ weights - 0.4)))
    return inputs, random.random(count) < chance


def test_fitted_weights_are_those_that_made_the_outcomes():
    assert fit([outcomes(20_000, [0.7, 1.3], 0)]) == pytest.approx((0.7, 1.3, -0.4), abs=0.08)


def test_a_large_pack_weighs_no_more_than_a_small_one():
    small, large = outcomes(4_000, [1.5, 0.0], 1), outcomes(40_000, [0.0, 1.5], 2)
    ours, theirs, _ = fit([small, large])
    assert ours == pytest.approx(theirs, abs=0.1)
