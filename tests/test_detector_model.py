"""The street detector offline: network, loss, augmentation, packs, training, export, evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from engines.detectors import agreement, calibrate, evaluate, pack, restore, train
from engines.detectors.decode import box_iou
from engines.detectors.examples import Example, Packs, degrade, flip, four_in_one, moved, recolour
from engines.detectors.export import export, scale_logits
from engines.detectors.loss import candidates, detection_loss, overlap
from engines.detectors.model import Config, StreetNet, cell_grid, to_boxes
from engines.detectors.runtime import Detector
from engines.detectors.signature import STREET_CLASSES
from engines.errors import ModelError
from engines.export import TOLERANCE
from engines.load import load_engine
from engines.onnxfile import read_metadata
from streamer.planes import Planes

TINY = Config(width=96, height=64, channels=(8, 8, 16, 16, 16), depths=(1, 1, 1), neck=16)
PERSON, CAR = 0, 2


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def tiny_example(*boxes: tuple[float, float, float, float], name: int = PERSON) -> Example:
    """A grey picture with a bright rectangle at each box."""
    picture = np.full((3, 64, 96), 128, np.uint8)
    for x1, y1, x2, y2 in boxes:
        picture[0, int(y1) : int(y2), int(x1) : int(x2)] = 220
    scores = np.zeros((len(boxes), 6), np.float32)
    scores[:, name] = 1
    return Example(picture, np.array(boxes, np.float32).reshape(-1, 4), scores)


# -------------------------------------------------------------------------------- network and loss


@pytest.mark.parametrize(("width", "height"), [(96, 64), (160, 32)])
def test_one_row_for_each_cell(width: int, height: int) -> None:
    config = Config(width=width, height=height, channels=(8, 8, 8, 8, 8), neck=8)
    net = StreetNet(config).eval()
    planes = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    rows = net.predict(planes)
    cells = (width * height) // 64 + (width * height) // 256 + (width * height) // 1024
    assert rows.shape == (2, cells, 10)
    assert len(cell_grid(config)) == config.cells == cells
    assert (rows[..., 4:] < 0.2).all(), "an untrained network is sure of nothing"
    torch.testing.assert_close(rows, net.predict(planes.float()))


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        ValueError, match="width and height must be multiples of 32, got 100 and 64"
    ):
        Config(width=100, height=64)
    assert Config(width=128, height=64).cells == 168


def test_the_shipped_network_is_as_small_as_its_card_says() -> None:
    net = StreetNet()
    assert net.parameters_count() == 561_854
    assert net.macs() == 283_820_544
    assert net.training, "counting leaves the network as it was"


def test_every_parameter_gets_a_gradient() -> None:
    net = StreetNet(TINY).train()
    with torch.no_grad():  # zero-mean last layers would hide a branch that is cut off
        for head in net.heads:
            head.score[-1].weight.normal_(std=0.2)
    examples = [
        tiny_example((10, 10, 30, 50), (40, 8, 90, 40)),
        tiny_example((2, 2, 94, 62), name=CAR),
    ]
    planes = torch.from_numpy(np.stack([e.picture for e in examples]))
    planes = planes + torch.randint(0, 30, planes.shape, dtype=torch.uint8)
    sum(detection_loss(net(planes), wide_targets(examples), cell_grid(TINY))).backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert silent == []


def wide_targets(examples: list[Example]) -> object:
    """Candidates with a small, a middle and a large object, so that each stride learns."""
    large = Example(
        examples[0].picture,
        np.array([[0, 0, 120, 64]], np.float32),
        np.eye(6, dtype=np.float32)[:1],
    )
    return candidates([*examples[:1], merged(examples[1], large)], TINY)


def merged(a: Example, b: Example) -> Example:
    return Example(
        a.picture,
        np.concatenate([a.boxes_xyxy, b.boxes_xyxy]),
        np.concatenate([a.scores, b.scores]),
    )


def test_candidates_are_the_cells_around_the_middle() -> None:
    # 12x20 px around (20, 28): stride 8, column 2, row 3; columns 1..3 and rows 2..4 are near,
    # but the centres of columns 1 and 3 (12 and 28) lie outside the box.
    targets = candidates([tiny_example(), tiny_example((14, 18, 26, 38))], TINY)
    cells = targets.cell - TINY.cells
    assert sorted(cells.tolist()) == [2 * 12 + 2, 3 * 12 + 2, 4 * 12 + 2]
    assert set(targets.object.tolist()) == {0}


def test_even_the_smallest_object_has_one_cell() -> None:
    targets = candidates([tiny_example((17, 9, 20, 12))], TINY)
    assert targets.cell.tolist() == [12 + 2]


def test_a_picture_without_objects_teaches_silence() -> None:
    net = StreetNet(TINY)
    rows = net(torch.zeros(1, 3, 64, 96))
    score, box = detection_loss(rows, candidates([tiny_example()], TINY), cell_grid(TINY))
    assert score > 0
    assert box == 0


def test_a_perfect_answer_costs_nothing_and_a_worse_one_more() -> None:
    example = tiny_example((14, 18, 26, 38))
    targets, grid = candidates([example], TINY), cell_grid(TINY)
    rows = torch.zeros(1, TINY.cells, 10)
    rows[..., 4:] = -20
    own = 3 * 12 + 2
    rows[0, :, 2:4] = -3  # everywhere else a speck, which fits nothing
    rows[0, own, :4] = torch.tensor([0.5, 0.5, np.log(12 / 8), np.log(20 / 8)])
    torch.testing.assert_close(
        to_boxes(rows[0, own], grid[own]), torch.tensor([14.0, 18.0, 26.0, 38.0])
    )
    rows[0, own, 4 + PERSON] = 20
    perfect = detection_loss(rows, targets, grid)[0]
    assert perfect < 1e-3
    for row, column, value in [(own, 4 + PERSON, -5), (own, 4 + CAR, 5), (0, 4 + PERSON, 5)]:
        worse = rows.clone()
        worse[0, row, column] = value
        assert detection_loss(worse, targets, grid)[0] > perfect + 0.5


def test_a_cell_between_two_objects_answers_for_the_one_it_fits() -> None:
    grid = cell_grid(TINY)
    person, car = (14.0, 18.0, 26.0, 38.0), (14.0, 10.0, 40.0, 46.0)
    example = merged(tiny_example(person), tiny_example(car, name=CAR))
    targets = candidates([example], TINY)
    own = 3 * 12 + 2  # a candidate of both
    rows = torch.zeros(1, TINY.cells, 10)
    rows[..., 4:] = -20
    rows[0, :, 2:4] = -3
    rows[0, own, :4] = torch.tensor([0.5, 0.5, np.log(12 / 8), np.log(20 / 8)])  # the person's box
    said = []
    for name in (PERSON, CAR):
        answer = rows.clone()
        answer[0, own, 4 + name] = 20
        said.append(detection_loss(answer, targets, grid))
    assert said[0][0] + 0.5 < said[1][0], "saying person is right"
    both = [rows.clone(), rows.clone()]
    both[1][0, own, 2:4] += 0.3  # nearer to the car, which is not its to answer for
    costs = [detection_loss(answer, targets, grid)[1] for answer in both]
    assert costs[0] < costs[1]


def test_overlap_of_pairs() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [20, 0, 30, 10]])
    iou, giou = overlap(a, b)
    torch.testing.assert_close(iou, torch.tensor([1 / 3, 0.0]))
    torch.testing.assert_close(giou, torch.tensor([1 / 3, -1 / 3]))


def test_a_tiny_network_learns_one_picture() -> None:
    example = tiny_example((14, 18, 26, 38), (60, 10, 84, 50))
    planes = torch.from_numpy(example.picture[None])
    net, grid = StreetNet(TINY).train(), cell_grid(TINY)
    targets = candidates([example], TINY)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        sum(detection_loss(net(planes), targets, grid)).backward()
        optimizer.step()
    rows = net.predict(planes)[0]
    best = rows[:, 4 + PERSON].topk(1).indices
    assert rows[best, 4 + PERSON] > 0.6
    found = to_boxes(rows[best], grid[best])
    assert max(overlap(found, wanted[None])[0] for wanted in targets.boxes_xyxy) > 0.7


# ------------------------------------------------------------------------------------ augmentation


def bright(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Find the box of what is bright."""
    ys, xs = np.nonzero(picture[0] > 180)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_flipping_moves_boxes_with_the_content_and_twice_is_nothing() -> None:
    example = tiny_example((10, 12, 30, 40))
    before = example.picture.copy()
    flipped = flip(example, 80)  # columns from 80 on are padding
    assert bright(flipped.picture) == tuple(flipped.boxes_xyxy[0]) == (50, 12, 70, 40)
    again = flip(flipped, 80)
    np.testing.assert_array_equal(again.picture, before)


@pytest.mark.parametrize("seed", range(8))
def test_zooming_moves_boxes_with_the_picture(seed: int) -> None:
    out = moved(tiny_example((30, 20, 60, 44)), np.random.default_rng(seed))
    assert out.boxes_xyxy.shape == (1, 4)
    np.testing.assert_allclose(bright(out.picture), out.boxes_xyxy[0], atol=1.01)


def test_what_leaves_the_picture_is_forgotten() -> None:
    random = np.random.default_rng(0)
    corner = [moved(tiny_example((0, 0, 8, 8)), random) for _ in range(60)]
    counts = {len(example.boxes_xyxy) for example in corner}
    assert counts == {0, 1}
    assert all(len(e.boxes_xyxy) == len(e.scores) for e in corner)
    assert all((e.boxes_xyxy >= 0).all() for e in corner)


def test_four_in_one_halves_each() -> None:
    parts = [tiny_example((20, 20, 40, 40)) for _ in range(4)]
    whole = four_in_one(parts)
    assert whole.boxes_xyxy.tolist() == [
        [10, 10, 20, 20],
        [58, 10, 68, 20],
        [10, 42, 20, 52],
        [58, 42, 68, 52],
    ]
    assert (whole.picture[0, 44:50, 60:66] > 200).all()


def test_recolouring_changes_colours_and_not_shapes() -> None:
    example = tiny_example((10, 12, 30, 40))
    before = example.picture.copy()
    recolour(example.picture, np.random.default_rng(3))
    assert (example.picture != before).any()
    assert example.picture[0, 20, 20] > example.picture[0, 0, 0]
    assert abs(int(example.picture[1, 0, 0]) - 128) <= 1, "grey stays grey"


def test_a_worse_camera_shows_the_same() -> None:
    changed = set()
    for seed in range(12):
        picture = tiny_example((10, 12, 30, 40)).picture
        before = picture.copy()
        degrade(picture, np.random.default_rng(seed))
        assert np.abs(picture.astype(int) - before).mean() < 12
        assert picture[0, 16:36, 14:26].mean() > picture[0, 44:].mean() + 60
        changed.add(picture.tobytes())
    assert len(changed) == 12


# ------------------------------------------------------------------------------- packs to a model


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Four pictures of 192x108 with one white object each, labelled as a person (or a kite)."""
    folder = tmp_path / "set"
    for kind in ("images", "labels"):
        (folder / "val" / kind).mkdir(parents=True)
    (folder / "classes.yaml").write_text("names:\n  0: person\n  2: car\n  33: kite\n")
    for index, name in enumerate([0, 0, 0, 33]):
        picture = np.full((108, 192, 3), 60, np.uint8)
        x = 30 + 30 * index
        cv2.rectangle(picture, (x, 30), (x + 23, 77), (255, 255, 255), -1)
        cv2.imwrite(str(folder / "val" / "images" / f"{index}.png"), picture)
        line = f"{name} {(x + 12) / 192} {54 / 108} {24 / 192} {48 / 108}\n"
        (folder / "val" / "labels" / f"{index}.txt").write_text(line)
    return folder


@pytest.fixture
def packs(labelled: Path, tmp_path: Path) -> Path:
    root = tmp_path / "packs"
    pack.main(["--size", "96x64", str(root / "own"), "images", str(labelled), "--split", "val"])
    return root


def test_a_pack_holds_pictures_and_boxes_as_the_network_sees_them(packs: Path) -> None:
    assert np.load(packs / "own" / "pictures.npy").shape == (4, 3, 64, 96)
    labels = np.load(packs / "own" / "labels.npz")
    assert labels["content"].tolist() == [[96, 54]] * 4
    assert labels["picture"].tolist() == [0, 1, 2], "a kite is not ours"
    np.testing.assert_allclose(labels["boxes_xyxy"][0], [15, 15, 27, 39], atol=0.01)
    assert labels["scores"].argmax(axis=1).tolist() == [PERSON] * 3
    source = Packs(packs, {"own": 1})
    assert source.size == (96, 64)
    example = source.augmented(np.random.default_rng(0), mosaic=1.0)
    assert example.picture.shape == (3, 64, 96)


def test_pictures_of_calm_packs_keep_their_size_and_sharpness(packs: Path) -> None:
    source = Packs(packs, {"own": 1}, calm=["own"])
    random = np.random.default_rng(0)
    found = [source.augmented(random, mosaic=0.0) for _ in range(40)]
    widths = {tuple(e.boxes_xyxy[:, 2] - e.boxes_xyxy[:, 0]) for e in found}
    assert widths == {(12.0,), ()}, "as they were; one picture shows a kite"
    assert len({e.picture.tobytes() for e in found}) > 20, "but mirrored and in other colours"
    varied = [Packs(packs, {"own": 1}).augmented(random, mosaic=0.0) for _ in range(40)]
    assert len({tuple(e.boxes_xyxy[:, 2] - e.boxes_xyxy[:, 0]) for e in varied}) > 10


def test_a_pack_that_is_not_there(packs: Path) -> None:
    with pytest.raises(SystemExit, match=r"other: pack must exist; make it with"):
        Packs(packs, {"own": 1, "other": 1})


def test_a_picture_that_is_none(labelled: Path, tmp_path: Path) -> None:
    (labelled / "val" / "images" / "x.png").write_text("nothing")
    with pytest.raises(SystemExit, match=r"x\.png: file must be a picture"):
        pack.main([str(tmp_path / "p"), "images", str(labelled), "--split", "val"])


def test_scenes_that_are_kept_for_evaluation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="seeds must be 1000 or more, got 7"):
        pack.main([str(tmp_path / "p"), "street", "--seeds", "7:9"])


def test_rendered_scenes_are_labelled_by_their_truth() -> None:
    planes, boxes, scores = next(pack.rendered_scenes(range(1000, 1001)))
    assert (planes.width, planes.height) == (1280, 720)
    assert len(boxes) == len(scores) >= 3
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert ((scores > 0).sum(axis=1) == 1).all()


def test_a_teacher_labels_the_first_part_of_a_clip(data_dir: Path) -> None:
    teacher = Detector.load(data_dir / "weights" / "yolox_nano_416_coco.onnx", score=0.5)
    clip = data_dir / "video" / "two_persons_1080p.mp4"
    taught = list(pack.taught_clips(teacher, [clip], until=0.25, every=9))
    assert len(taught) == 2
    planes, boxes, scores = taught[0]
    sure = teacher.detect(planes.y, planes.u, planes.v)
    persons = sure.boxes_xyxy[sure.classes == teacher.classes.index("person")]
    assert len(persons) >= 2
    overlaps = box_iou(persons, boxes[scores.argmax(axis=1) == PERSON])
    assert (overlaps.max(axis=1) > 0.8).all()
    teacher.close()


def test_training_runs_stops_and_goes_on(packs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [str(packs), str(run), "--mix", "own=1", "--batch", "2"]
    train.main([*arguments, "--minutes", "0.01"])
    first = torch.load(run / "checkpoint.pt", weights_only=True)
    assert first["step"] >= 1
    train.main([*arguments, "--minutes", "0.02"])
    second = torch.load(run / "checkpoint.pt", weights_only=True)
    assert second["step"] > first["step"]
    assert second["spent_s"] > first["spent_s"]
    for state in (first, second):  # the optimizer's memory is resumed too
        assert state["optimizer"]["state"][0]["step"] == state["step"]
    net = train.load_average(run)
    assert net.config == Config(width=96, height=64)
    assert not net.training


def test_training_starts_from_the_average_of_exported_networks(packs: Path, tmp_path: Path) -> None:
    run, start, files = tmp_path / "run", tmp_path / "start", []
    for number in range(2):
        net = StreetNet(Config(width=64, height=32))  # weights fit any size
        net(torch.randint(0, 256, (4, 3, 32, 64), dtype=torch.uint8))
        files.append(tmp_path / f"{number}.onnx")
        export(net, files[-1])
    restore.main([str(start), f"{files[0]}=3", f"{files[1]}=1", "--size", "64x32"])
    arguments = [str(packs), str(run), "--mix", "own=1", "--batch", "2", "--minutes", "0.01"]
    arguments += ["--start-from", str(start), "--freeze", "stem", "stage3"]
    train.main([*arguments, "--lr", "1e-3"])
    learned = {
        name.partition(".")[0]
        for (name, one), other in zip(
            train.load_average(run).named_parameters(),
            train.load_average(start).parameters(),
            strict=True,
        )
        if not torch.equal(one, other)
    }
    assert learned >= {"stage4", "fuse3", "heads"}
    assert not learned & {"stem", "stage3"}
    run = tmp_path / "hardly"
    arguments[1] = str(run)
    train.main([*arguments, "--lr", "1e-9"])
    trained = train.load_average(run)
    assert trained.config == Config(width=96, height=64, folded=True)
    parts = [restore.restore(path, trained.config).parameters() for path in files]
    for got, one, other in zip(trained.parameters(), *parts, strict=True):
        torch.testing.assert_close(got, 0.75 * one + 0.25 * other, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------- export, evaluation


@pytest.fixture
def exported(tmp_path: Path) -> tuple[StreetNet, Path]:
    net = StreetNet(TINY)
    for _ in range(3):  # batch norms with statistics that matter
        net(torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8))
    net.eval()
    path = tmp_path / "tiny.onnx"
    assert export(net, path) <= TOLERANCE
    return net, path


@pytest.mark.parametrize("library", ["openvino", "onnxruntime"])
def test_exported_network_equals_torch(library: str, exported: tuple[StreetNet, Path]) -> None:
    net, path = exported
    planes = np.random.default_rng(1).integers(0, 256, (3, 3, 64, 96), np.uint8)
    engine = load_engine(path, device=f"{library}:cpu")
    ours = engine.infer({"planes": planes})["rows"]
    with torch.no_grad():
        theirs = net.predict(torch.from_numpy(planes)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    engine.close()


def test_weights_come_back_from_the_file(exported: tuple[StreetNet, Path], tmp_path: Path) -> None:
    net, path = exported
    planes = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        again = restore.restore(path, TINY).predict(planes)
        torch.testing.assert_close(again, net.predict(planes), atol=TOLERANCE, rtol=0)
        taller = restore.restore(path, replace(TINY, height=96))
    assert taller(planes[:, :, :32].repeat(1, 1, 3, 1)).shape == (2, taller.config.cells, 10)
    export(taller, tmp_path / "taller.onnx")  # another size, the same weights
    back = restore.restore(tmp_path / "taller.onnx", taller.config)
    assert all(map(torch.equal, taller.parameters(), back.parameters()))
    with pytest.raises(ModelError, match=r"convolutions must be .* got .*; give the config"):
        restore.restore(path, Config(width=96, height=64))


def test_exported_network_says_how_to_read_it(exported: tuple[StreetNet, Path]) -> None:
    model = onnx.load(exported[1])
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert read_metadata(exported[1])["colour"] == "yuv"
    detector = Detector.load(exported[1], device="cpu", score=0.01)
    assert detector.classes == STREET_CLASSES
    assert detector.max_batch is None
    assert not detector.signature.enlarge
    planes = Planes.empty(200, 100)
    planes.fill(90)
    frames = [(planes.y, planes.u, planes.v)] * 2
    outputs = detector.engine.infer(detector.prepare_batch(frames))
    one, two = detector.decode_batch(outputs, [(200, 100)] * 2)
    np.testing.assert_array_equal(one.boxes_xyxy, two.boxes_xyxy)
    detector.close()


def test_calibration_finds_the_gain_that_was_hidden() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(-1, 2, 20_000)
    hits = random.random(20_000) < 1 / (1 + np.exp(-(1.7 * logits + 0.6)))
    gain, offset = calibrate.fit(1 / (1 + np.exp(-logits)), hits)
    assert gain == pytest.approx(1.7, rel=0.05)
    assert offset == pytest.approx(0.6, abs=0.06)


def test_calibration_is_folded_into_the_network() -> None:
    net = StreetNet(TINY).eval()
    planes = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        before = net(planes)
        scale_logits(net, 1.7, 0.6)
        after = net(planes)
    torch.testing.assert_close(after[..., 4:], before[..., 4:] * 1.7 + 0.6)
    torch.testing.assert_close(after[..., :4], before[..., :4])


def test_outcomes_are_counted_once_for_each_object_and_class(
    exported: tuple[StreetNet, Path],
) -> None:
    detector = Detector.load(exported[1], device="onnxruntime:cpu", score=0.001)
    example = tiny_example((14, 18, 26, 38))
    found = detector.decode(
        detector.engine.infer({"planes": example.picture[None]}), width=96, height=64
    )
    scores, hits = calibrate.outcomes(detector, [example, tiny_example()])
    persons = found.boxes_xyxy[found.classes == PERSON]
    assert len(hits) == len(scores) >= len(found) > 0
    assert hits.sum() == agreement.match(persons, example.boxes_xyxy).hits
    unsure = Example(example.picture, example.boxes_xyxy, example.scores * 0.4)
    assert not calibrate.outcomes(detector, [unsure])[1].any()
    detector.close()


def test_metadata_that_does_not_fit_is_refused(exported: tuple[StreetNet, Path]) -> None:
    model = onnx.load(exported[1])
    for key, value, told in [
        ("classes", "person,car", "output must be .*126x6, as strides and classes"),
        ("colour", "mauve", "metadata of a detector must give"),
        ("strides", "8,sixteen", "metadata of a detector must give"),
    ]:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for entry in changed.metadata_props:
            if entry.key == key:
                entry.value = value
        onnx.save(changed, exported[1])
        with pytest.raises(ModelError, match=told):
            Detector.load(exported[1], device="onnxruntime:cpu")


def test_average_precision_of_a_known_detector(
    labelled: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(data_dir / "coco"), "--split", "val"]
    teacher = data_dir / "weights" / "yolox_nano_416_coco.onnx"
    evaluate.main([*arguments, "--detector", str(teacher)])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["images"] == 64
    assert 0.5 < report["ap50"]["person"] < 0.8  # 0.63 on the other 128 pictures
    assert report["ap"]["person"] < report["ap50"]["person"]
    evaluate.main(["--data", str(labelled), "--detector", str(teacher)])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["ap50"].keys() == {"person", "kite"}, "white bars: all wrong, but counted"


def test_a_second_box_on_one_object_is_no_hit() -> None:
    wanted = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    found = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [80, 0, 90, 9]], np.float32)
    tally = agreement.match(found, wanted)
    assert (tally.hits, tally.found, tally.wanted) == (2, 4, 2)
    assert tally.f1 == pytest.approx(2 / 3)
    assert agreement.match(found[:0], wanted).f1 == agreement.match(found, wanted[:0]).f1 == 0


def test_a_detector_agrees_with_itself(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(data_dir / "weights" / "yolox_nano_416_coco.onnx")
    clip = str(data_dir / "video" / "carphone_qcif.mp4")
    common = ["--agreement", clip, "--teacher", teacher, "--detector", teacher, "--score"]
    evaluate.main([*common, "0.5"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["f1"], report["frames"], report["clips"]) == (1.0, 30, 1)
    assert report["classes"]["person"]["boxes"] == report["boxes"] >= 30
    evaluate.main([*common, "0.9"])
    stricter = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert stricter["recall"] < 1.0 == stricter["precision"]
