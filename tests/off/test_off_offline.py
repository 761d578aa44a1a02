"""Packs, augmentation, figures and the commands: what they make, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.detectors.model import StreetNet
from engines.off.augment import STEP, augmented_clip, jittered_index, plain_index
from engines.off.colour import Rgb
from engines.off.confusion import confusion_svg
from engines.off.evaluate import main as evaluate
from engines.off.metrics import (
    accuracy,
    auc,
    bootstrap,
    confusion,
    folds_by_source,
    mean_class_accuracy,
)
from engines.off.pack import pack_clips, pack_street, read_labels, street_persons
from engines.off.shards import Pack, Packer
from engines.off.train import Options, Pictures, draw_runs, fit
from engines.off.weights import (
    detector_backbone,
    initial_net,
    load_backbone,
    load_net,
    save_backbone,
)
from engines.zoo import find_model

CLASSES = ("normal", "fight")


def labels(folder: Path, *rows: str) -> Path:
    (folder / "labels.csv").write_text("\n".join(["file,label,source", *rows]) + "\n")
    return folder


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (["a.mp4,fight,s1", "b.mp4,fight,s1"], r"labels.csv:3: file must be in .*'b.mp4'"),
        (["a.mp4,dance,s1"], r"labels.csv:2: label must be one of normal, fight, got 'dance'"),
        (["a.mp4,fight,s1", "a.mp4,normal,s1"], "a.mp4 must stand here once"),
        ([], "got no row"),
    ],
)
def test_wrong_labels_are_one_clear_error(tmp_path: Path, rows: list[str], match: str) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(SystemExit, match=match):
        read_labels(labels(tmp_path, *rows), CLASSES)


def test_labels_need_their_columns_and_their_file(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"labels.csv: must be readable"):
        read_labels(tmp_path, CLASSES)
    (tmp_path / "labels.csv").write_text("clip,class\nx,y\n")
    with pytest.raises(SystemExit, match="must have rows of file, label and source"):
        read_labels(tmp_path, CLASSES)


def moving(frames: int = 12) -> np.ndarray:
    """A bright square that moves right by two pixels a picture."""
    pictures = np.full((frames, 3, 72, 96), 128, np.uint8)
    for t, picture in enumerate(pictures):
        picture[0] = 40
        picture[0, 20:40, 10 + 2 * t : 30 + 2 * t] = 220
    return pictures


def tiny_pack(folder: Path, clips: int = 6) -> Pack:
    packer = Packer(CLASSES, 16.0)
    for number in range(clips):
        pictures = moving() if number % 2 else np.repeat(moving(1), 12, 0)
        packer.add(list(pictures), [number % 2] * 12, source=f"s{number}", name=f"{number}.mp4")
    packer.save(folder)
    return Pack.load(folder)


def test_a_pack_is_what_was_put_in(tmp_path: Path) -> None:
    pack = tiny_pack(tmp_path)
    assert (len(pack), pack.size, pack.classes) == (6, (96, 72), CLASSES)
    assert (pack.frames[slice(*pack.span(1))] == moving()).all()
    assert pack.clip_labels().tolist() == [0, 1] * 3
    np.save(tmp_path / "frames.npy", moving(5))
    with pytest.raises(SystemExit, match=r"frames.npy must hold 72 frames, got 5"):
        Pack.load(tmp_path)
    with pytest.raises(SystemExit, match="pack must be a folder"):
        Pack.load(tmp_path / "nowhere")
    with pytest.raises(SystemExit, match="at least one clip"):
        Packer(CLASSES, 16.0).save(tmp_path)


def test_augmentation_keeps_motion_the_same_over_a_clip() -> None:
    """The square's centre still moves on a line, by equal steps."""
    for seed in range(6):
        out = augmented_clip(moving(8), (64, 48), np.random.default_rng(seed))
        luma = out[:, 0].astype(float)
        bright = luma > (luma.max() + np.median(luma)) / 2
        rows, columns = np.indices((48, 64))
        centres = np.array([[rows[b].mean(), columns[b].mean()] for b in bright])
        inside = [not b[[0, -1]].any() and not b[:, [0, -1]].any() for b in bright]
        steps = np.diff(centres[inside], axis=0)
        if len(steps) > 2:
            assert np.abs(steps - steps.mean(0)).max() < 0.6
            assert np.linalg.norm(steps.mean(0)) > 0.5


def test_samples_are_at_half_the_packs_rate() -> None:
    assert plain_index(9).tolist() == [0, 2, 4, 6, 8]
    for seed in range(20):
        index = jittered_index(np.random.default_rng(seed), 33)
        assert index.min() >= 0
        assert index.max() <= 32
        assert np.diff(index).mean() == pytest.approx(STEP, rel=0.25)


@pytest.mark.parametrize("order", [1, 2])
def test_runs_lie_in_one_label(order: int) -> None:
    label = np.array([0] * 7 + [1] * 9, np.int16)
    for seed in range(50):
        runs, target = draw_runs(
            np.random.default_rng(seed), label, 100, order, Options(1, segments=3, span=6)
        )
        assert runs.shape == (3, 1 + order)
        assert (np.diff(runs) == 1).all()
        assert (label[runs - 100] == target).all()
    with pytest.raises(ValueError, match=f"at least {1 + order} samples"):
        draw_runs(np.random.default_rng(0), label[:order], 0, order, Options(1))


def test_both_steps_train_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    pack = tiny_pack(tmp_path / "pack")
    net = initial_net("random", 2, (64, 64))
    examples, clips = Pictures(pack, (64, 64), net.config), np.arange(6)
    run = tmp_path / "run"
    fit(net, "rgb", examples, clips, Options(1, segments=2), run=run)
    frozen = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    fit(net, "off", examples, clips, Options(2, segments=2), run=run)
    assert all(torch.equal(v, net.backbone.state_dict()[k]) for k, v in frozen.items())
    again = load_net(run / "checkpoint.pt")
    assert torch.equal(again.units[0].reduce.weight, net.units[0].reduce.weight)
    history = fit(net, "off", examples, clips, Options(3, segments=2), run=run)
    assert len(history) == 1  # two of the three epochs were done before


def test_the_shipped_backbone_fits() -> None:
    net = initial_net(str(find_model("fight").parent / "backbone.npz"), 2, (64, 64))
    assert [tap.stride for tap in net.backbone.taps] == [8, 16, 32]
    with pytest.raises(SystemExit, match="backbone must be"):
        load_backbone(Path("/nowhere"))


def test_the_detectors_trunk_sees_rgb_as_it_saw_planes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = StreetNet().train()
    with torch.no_grad():
        shape = 2, 3, net.config.height, net.config.width
        net(torch.randint(16, 236, shape))  # statistics that are not those of the start
    state = {"config": asdict(net.config), "average": net.eval().state_dict()}
    torch.save(state, tmp_path / "checkpoint.pt")
    backbone = detector_backbone(tmp_path).eval()
    planes = torch.randint(16, 236, (1, 3, 128, 128)).float()
    with torch.no_grad():
        wanted = net.stage3(net.stem(planes / 128))
        seen = backbone(Rgb()(planes))[0]
    inside = (..., slice(3, -3), slice(3, -3))  # the border is padded with another colour
    assert wanted[inside].std() > 0.02
    assert torch.allclose(seen[inside], wanted[inside], atol=1e-4)
    save_backbone(backbone, tmp_path / "trunk.npz")
    again = initial_net(str(tmp_path / "trunk.npz"), 2, (64, 64))
    assert again.config.backbone == "street"
    assert torch.allclose(
        again.backbone.stages[1][0][0].weight, backbone.stages[1][0][0].weight, atol=1e-3
    )


def test_figures_of_known_scores() -> None:
    truth = np.array([0, 0, 0, 1])
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    assert accuracy(scores, truth) == 0.75
    assert mean_class_accuracy(scores, truth) == pytest.approx((2 / 3 + 1) / 2)
    assert auc(scores, truth) == 1.0
    assert auc(scores[::-1], truth) == pytest.approx(0.0)
    assert confusion(scores, truth, 2).tolist() == [[2, 1], [0, 1]]
    source = np.array(["a", "a", "b", "b"])
    interval = bootstrap(lambda rows: accuracy(scores[rows], truth[rows]), source)
    assert (interval.low, interval.value, interval.high) == (0.5, 0.75, 1.0)


def test_no_source_is_parted_and_unknown_ones_only_train() -> None:
    rng = np.random.default_rng(3)
    source = np.array([f"s{n}" for n in rng.integers(20, size=150)] + ["unknown"] * 9)
    truth = rng.integers(2, size=159)
    fold = folds_by_source(source, truth, 5, seed=1)
    for name in np.unique(source):
        assert len(set(fold[source == name].tolist())) == 1
    assert (fold[source == "unknown"] == -1).all()
    sizes = np.bincount(fold[fold >= 0])
    assert sizes.min() > 0.7 * sizes.mean()
    assert (fold != folds_by_source(source, truth, 5, seed=2)).any()
    with pytest.raises(SystemExit, match="folds must be at most"):
        folds_by_source(source, truth, 30, seed=0)


def test_the_plot_shows_every_count() -> None:
    svg = confusion_svg(np.array([[31, 2], [5, 17]]), CLASSES)
    assert all(f">{n}<" in svg for n in (31, 2, 5, 17))
    with pytest.raises(ValueError, match="counts must be 2 x 2"):
        confusion_svg(np.zeros((3, 3), np.int64), CLASSES)


def test_streets_for_evaluation_are_not_trained_on() -> None:
    with pytest.raises(SystemExit, match="seeds must be 1000 or more"):
        pack_street(range(1, 3))


def test_persons_of_the_street_come_with_their_actions() -> None:
    persons = street_persons(1000, seconds=3.0)
    assert persons
    for frames, actions in persons.values():
        assert len(frames) == len(actions) >= 32
        assert frames[0].shape == (3, 128, 128)
        assert 0 <= min(actions) <= max(actions) < 5


def test_a_folder_of_clips_is_scored(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (data_dir / "fight" / "labels.csv").read_text().splitlines()
    two = [rows[1], next(row for row in rows if ",normal," in row)]
    for row in two:
        name = row.partition(",")[0]
        (tmp_path / name).symlink_to(data_dir / "fight" / name)
    evaluate(["--data", str(labels(tmp_path, *two)), "--model", "fight"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: the network was trained on 2 of these 2 clips")
    figures = json.loads(lines[-1])
    assert list(figures) == ["accuracy", "mean_class_accuracy", "auc", "clips", "ms_per_frame"]
    assert figures["clips"] == 2
    assert 0 <= figures["accuracy"] <= 1


def test_a_picture_is_no_clip(data_dir: Path, tmp_path: Path) -> None:
    picture = next((data_dir / "coco" / "val").rglob("*.jpg"))
    (tmp_path / "one.jpg").symlink_to(picture)
    with pytest.raises(SystemExit, match="must hold at least 3 samples at 8 a second, got 1"):
        evaluate(["--data", str(labels(tmp_path, "one.jpg,fight,s1")), "--model", "fight"])


def test_clips_of_any_rate_are_packed_at_one(data_dir: Path, tmp_path: Path) -> None:
    name = "fi001.mp4"
    (tmp_path / name).symlink_to(data_dir / "fight" / name)
    packer = pack_clips(labels(tmp_path, f"{name},fight,s0"), CLASSES)
    assert len(packer.frames) == pytest.approx(2 * 16 + 1, abs=2)
    assert packer.frames[0].shape == (3, 192, 320)
