"""Packs, examples, training, export and evaluation, from labelled pictures to the last line."""

from __future__ import annotations

import json
from pathlib import Path

import cascade_tiny
import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from engines.cascade import evaluate, export, pack, prior, restore, train
from engines.cascade.examples import IGNORE, Packs, shares
from engines.cascade.metrics import Scores, border_score
from engines.cascade.model import Cascade, Config
from engines.cascade.rule import Rule, spread
from engines.cascade.small import SmallSizes

TINY = ["--size", "96x64", "--batch", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    cascade_tiny.write_split(folder, "train")
    return folder


@pytest.fixture(scope="module")
def packed(data: Path) -> Path:
    pack.main([str(data / "pack"), "images", str(data), "--size", "96x64"])
    return data / "pack"


def test_rendered_streets_are_packed_with_exact_labels(tmp_path: Path) -> None:
    pack.main([str(tmp_path), "street", "--seeds", "1000:1001", "--size", "192x108"])
    pictures, labels = np.load(tmp_path / "pictures.npy"), np.load(tmp_path / "labels.npy")
    assert pictures.shape == (2, 108, 192, 3)
    assert labels.shape == (2, 108, 192)
    assert {1, 3, 4} < set(np.unique(labels)) <= set(range(11))
    sky, road = pictures[..., 0][labels == 0], pictures[..., 0][labels == 3]
    assert sky.mean() > road.mean() + 20
    with pytest.raises(SystemExit, match="seeds must be 1000 or more, got 3"):
        pack.main([str(tmp_path), "street", "--seeds", "3:4"])


@pytest.fixture(scope="module")
def run(packed: Path) -> Path:
    folder = packed.parent / "run"
    train.main([str(folder), str(packed), "--minutes", "0.04", *TINY, "--cascade-share", "0.3"])
    return folder


def test_a_pack_holds_planes_and_labels(packed: Path) -> None:
    pictures, labels = np.load(packed / "pictures.npy"), np.load(packed / "labels.npy")
    assert pictures.shape == (4, 64, 96, 3)
    assert set(np.unique(labels)) == {0, 3, IGNORE}
    luma = pictures[..., 0]
    assert luma[labels == 0].mean() > luma[labels == 3].mean() + 50


def test_examples_keep_pictures_and_labels_together(packed: Path) -> None:
    packs, random = Packs([packed], 11), np.random.default_rng(0)
    for _ in range(6):
        example = packs.draw(random, (64, 48))
        assert example.picture.shape == (3, 48, 64)
        assert example.target.shape == (11, 12, 16)
        assert example.target.sum(axis=0).max() <= 1.0001
        luma = cv2.resize(example.picture[0], (16, 12), interpolation=cv2.INTER_AREA)
        sky, road = example.target[0] > 0.99, example.target[3] > 0.99
        if sky.any() and road.any():
            assert luma[sky].mean() > luma[road].mean() + 30


def test_shares_of_a_cell() -> None:
    labels = np.full((4, 8), 3, np.uint8)
    labels[:2, :4] = 0
    labels[:, 4:] = IGNORE
    target = shares(labels, 11)
    assert target[0, 0, 0] == target[3, 0, 0] == 0.5
    assert not target[:, 0, 1].any()


def test_rare_classes_weigh_more_and_the_mean_is_one() -> None:
    part = torch.tensor([0.7, 0.29, 0.01])
    weights = train.class_weights(part)
    assert weights[2] > weights[1] > weights[0]
    assert float((weights * part).sum()) == pytest.approx(1)


def test_a_wrong_label_costs_what_its_class_weighs() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 1] = 9  # sure of class 1 everywhere
    target = torch.zeros(1, 2, 8, 8)
    target[:, 1, :, :4] = 1
    target[:, 0, :4, 4:] = 3  # weighs three times as much; the last quarter is void
    assert float(train.entropy(logits, target)) == pytest.approx(9 * 48 / 80, abs=1e-3)
    assert float(train.entropy(logits, target * 0)) == 0, "void alone"


def test_later_stages_learn_on_blocks_alone() -> None:
    net = cascade_tiny.random_net().train()
    net.prior.zero_()
    planes = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    target = torch.zeros(2, 11, 16, 24)
    target[:, 3] = 1
    first, *later = train.cascade_losses(net, planes, target)
    torch.testing.assert_close(first, train.deep_losses(net, planes, target)[0])
    sum(later).backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.startswith("stage1.head.") for name in idle)


def test_each_stage_of_the_published_variant_learns_where_it_ran() -> None:
    net = cascade_tiny.random_net(variant="published")
    planes = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    target = torch.zeros(1, 11, 8, 12)
    target[:, 3] = 1
    with torch.no_grad():
        sure = net(planes).logits[0].softmax(1).amax(1)
        rule = Rule(float(sure.median()), 0.25)
        found = train.region_losses(net, planes, target, rule)
        outputs = net(planes, rule)
    ran = outputs.ran[1]
    assert ran is not None
    assert 0 < ran.sum() < ran.numel()
    pixels = functional.interpolate(outputs.logits[2], size=(8, 12), mode="bilinear")
    there = spread(ran, 2)[:, 0]
    wanted = -pixels.log_softmax(1)[:, 3][there].mean()
    torch.testing.assert_close(found[2], wanted)


def test_training_learns_saves_and_goes_on(run: Path, packed: Path) -> None:
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["step"] > 0
    net = train.load_average(run)
    assert all(torch.isfinite(p).all() for p in net.parameters())
    train.main([str(run), str(packed), "--minutes", "0.05", *TINY])
    later = torch.load(run / "checkpoint.pt", weights_only=True)
    assert later["step"] > state["step"]
    assert later["spent_s"] > state["spent_s"]


def test_a_run_may_begin_with_the_weights_of_another(
    run: Path, packed: Path, tmp_path: Path
) -> None:
    begin = ["--start", str(run), "--minutes", "0"]
    train.main([str(tmp_path), str(packed), *begin, *TINY])
    before = torch.load(run / "checkpoint.pt", weights_only=True)["average"]
    after = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert after["step"] == 0
    assert all(torch.equal(before[name], after["net"][name]) for name in before)


@pytest.mark.parametrize("hidden", [64, 80])
def test_exported_stages_are_restored_and_may_have_grown(tmp_path: Path, hidden: int) -> None:
    net = cascade_tiny.random_net()
    cascade_tiny.exported(tmp_path, net, 0.5)
    grown = Cascade(Config(sizes=SmallSizes(hidden=hidden))).eval()
    planes = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    restore.restore(grown, tmp_path, planes)
    with torch.no_grad():
        found, wanted = grown(planes), cascade_tiny.oracle(net)(planes)
    for ours, theirs in zip(found.logits, wanted.logits, strict=True):
        assert torch.allclose(ours, theirs - net.prior, atol=1e-3)


def test_a_run_may_begin_with_exported_stages(packed: Path, tmp_path: Path) -> None:
    net = cascade_tiny.random_net()
    cascade_tiny.exported(tmp_path, net, 0.5)
    restored, begun = tmp_path / "restored", tmp_path / "begun"
    restore.main([str(restored), str(tmp_path), str(packed)])
    train.main([str(begun), str(packed), "--start", str(restored), "--minutes", "0", *TINY])
    planes = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        ours = train.load_average(begun)(planes).logits[2]
        theirs = cascade_tiny.oracle(net)(planes).logits[2] - net.prior
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_stages_that_are_larger_than_the_network_are_refused(tmp_path: Path) -> None:
    cascade_tiny.exported(tmp_path, cascade_tiny.random_net(), 0.5)
    smaller = Cascade(Config(sizes=SmallSizes(hidden=48))).eval()
    planes = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"stage2\.onnx: head\.0\.0 must be there and be no larg"):
        restore.restore(smaller, tmp_path, planes)


def test_the_prior_takes_back_what_a_class_was_favoured(run: Path, packed: Path) -> None:
    net, packs = train.load_average(run), Packs([packed], 11)
    fair = prior.fit_prior(net, packs).flatten()
    assert float(fair.mean()) == pytest.approx(0, abs=1e-5)
    planes = torch.from_numpy(np.ascontiguousarray(packs[0][0].transpose(2, 0, 1)))[None]
    with torch.no_grad():
        logits = net(planes).logits[2]
        short = logits.amax(dim=1) - logits[:, 2]
        net.stage3.head[1].bias[2] += short.median() + 0.5  # half of all is class 2 now
    unfair = prior.fit_prior(net, packs).flatten()
    assert unfair[2] < unfair[[0, 3]].min() - 0.3


def test_what_is_no_run_and_no_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="checkpoint must be there, got no file; train first"):
        train.load_average(tmp_path)
    with pytest.raises(SystemExit, match="folder must be a pack"):
        Packs([tmp_path], 11)


def test_labels_of_other_classes_are_refused(packed: Path) -> None:
    with pytest.raises(SystemExit, match=r"labels must be below 2 or 255, got \[3\]"):
        Packs([packed], 2)


def test_pictures_that_do_not_fit_their_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="folder must hold pictures, got none"):
        list(pack.labelled_pictures(tmp_path, "val"))
    cascade_tiny.write_split(tmp_path, "val", 1)
    label = tmp_path / "val" / "labels" / "0.png"
    cv2.imwrite(str(label), np.zeros((5, 5), np.uint8))
    with pytest.raises(SystemExit, match=r"0\.png: labels must be one channel of \(64, 96\)"):
        list(pack.labelled_pictures(tmp_path, "val"))
    label.unlink()
    with pytest.raises(SystemExit, match=r"0\.png: file must be a picture, got none"):
        list(pack.labelled_pictures(tmp_path, "val"))


def test_a_run_is_exported_and_evaluated(
    run: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tuned = ["--rho", "0.3", "--share", "0.5"]
    given = ["--prior", str(data / "pack"), "--size", "96x64"]
    export.main([str(run), str(tmp_path), *given, *tuned])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 6_000_000
    evaluate.main(
        ["--data", str(data), "--split", "train", "--model", str(tmp_path), "--rho", "0.5"]
    )
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["pictures"] == 4
    assert (result["rho"], result["share"]) == (0.3, 0.5)
    assert sum(result["decided"]) == pytest.approx(1, abs=1e-3)
    assert [row["rho"] for row in result["table"]] == [1.0, 0.5]
    assert result["table"][0]["decided"] == [0, 0, 1]
    assert 0 <= result["miou"] <= 1
    assert result["ms"] > 0
    assert len(result["per_class"]) == 11


def test_scores_by_hand() -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[:, 5:] = 1
    truth[0] = 11
    labels = np.zeros((10, 10), np.uint8)
    labels[:, 6:] = 1
    scores = Scores(2)
    scores.add(labels, truth)
    assert scores.per_class() == pytest.approx([45 / 54, 36 / 45])
    assert scores.miou() == pytest.approx((45 / 54 + 36 / 45) / 2)
    assert scores.border_f() == 1, "one pixel off is within the tolerance"
    with pytest.raises(ValueError, match=r"labels must be \(10, 10\) as the truth"):
        scores.add(labels[:5], truth)


def test_borders_far_off_score_nothing() -> None:
    near, far = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    near[:, 5:], far[:, 30:] = True, True
    assert border_score(far, near) < 0.2
    assert border_score(near, near) == 1
    assert border_score(np.zeros((40, 40), bool), near) == 0
