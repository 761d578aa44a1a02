"""Metrics against known values, and a whole evaluation of a few small pictures."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
from codec_tiny import moving_pictures, tiny_model

from engines.codec import evaluate
from engines.codec.colour import bgr_from_planes, planes_from_bgr
from engines.codec.evaluate import Point, bd_rate
from engines.codec.metrics import ms_ssim, psnr_db, score


def test_psnr_of_a_constant_error():
    a = np.full((20, 20), 100, np.uint8)
    assert psnr_db(a, a + 5) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr_db(a, a) == pytest.approx(78.13, abs=0.01)


def test_ms_ssim_is_one_for_equal_planes_and_falls_with_noise():
    rng = np.random.default_rng(0)
    plane = cv2.GaussianBlur(rng.integers(0, 256, (192, 200), np.uint8), (0, 0), 3)
    noisy = [
        np.clip(plane + rng.normal(0, s, plane.shape), 0, 255).astype(np.uint8) for s in (2, 9)
    ]
    assert ms_ssim(plane, plane) == pytest.approx(1)
    assert 1 > ms_ssim(plane, noisy[0]) > ms_ssim(plane, noisy[1]) > 0.3


def test_ms_ssim_refuses_planes_below_its_smallest_scale():
    with pytest.raises(ValueError, match=r"planes must be at least 176 on each side, got \(100"):
        ms_ssim(np.zeros((100, 300), np.uint8), np.zeros((100, 300), np.uint8))


def test_score_weighs_luma_six_to_one():
    picture = moving_pictures(1, 192, 192)[0]
    other = type(picture)(picture.y, picture.u + 10, picture.v)
    expected = (6 * 78.13 + 20 * np.log10(255 / 10) + 78.13) / 8
    assert score(other, picture).psnr_yuv_db == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("bgr", "yuv"),
    [
        ((255, 255, 255), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
        ((0, 0, 255), (81, 90, 240)),
        ((255, 0, 0), (41, 240, 110)),
    ],
)
def test_colours_become_limited_range(bgr, yuv):
    planes = planes_from_bgr(np.full((4, 6, 3), bgr, np.uint8))
    assert tuple(int(p[0, 0]) for p in planes) == yuv
    back = bgr_from_planes(*planes)
    assert np.abs(back.astype(int) - np.array(bgr)).max() <= 2


def test_odd_sides_are_cut():
    y, u, _ = planes_from_bgr(np.zeros((5, 7, 3), np.uint8))
    assert y.shape == (4, 6)
    assert u.shape == (2, 3)


def curve(rate: float) -> list[Point]:
    return [Point(i, rate * 2.0**i, 30 + 3 * i, 30, 0.9, 1, 1) for i in range(5)]


def test_bd_rate_of_half_the_bytes_is_minus_fifty_percent():
    assert bd_rate(curve(0.05), curve(0.1), "psnr_yuv_db") == pytest.approx(-50, abs=0.01)


def test_curves_that_do_not_overlap_have_no_bd_rate():
    far = [Point(p.level, p.bpp, p.psnr_yuv_db + 40, 30, 0.9, 1, 1) for p in curve(0.1)]
    assert bd_rate(far, curve(0.1), "psnr_yuv_db") is None
    assert bd_rate(curve(0.1), curve(0.1), "psnr_rgb_db") is None


def test_an_evaluation_ends_in_one_line_of_json(tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for i, p in enumerate(moving_pictures(3, 192, 176)):
            cv2.imwrite(str(tmp_path / name / f"{i:03d}.jpg"), bgr_from_planes(p.y, p.u, p.v))
    arguments = ["--frames", str(tmp_path), "--codecs", "rt,x264,mjpeg", "--count", "2"]
    arguments += ["--model", str(tiny_model()), "--device", "onnxruntime:cpu"]
    arguments += ["--plots", str(tmp_path / "plots"), "--json-out", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    evaluate.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) >= {"bd_rate_psnr", "points", "fps", "machine"}
    assert json.loads((tmp_path / "result.json").read_text()) == result
    for name in evaluate.AXES:
        drawn = cv2.imread(str(tmp_path / "plots" / f"{name}.png"))
        assert drawn.shape == (600, 840, 3)
        assert drawn.std() > 10
    assert set(result["points"]) == {"rt", "x264", "mjpeg"}
    assert [p["level"] for p in result["points"]["x264"]] == [15, 19, 23, 27, 31]
    psnrs = [p["psnr_yuv_db"] for p in result["points"]["x264"]]
    assert psnrs == sorted(psnrs, reverse=True)
    assert psnrs[0] > 40
    assert result["bd_rate_psnr"]["mjpeg"]["x264"] > 0
    assert all(speed > 0 for of in result["fps"].values() for speed in of.values())


def test_an_unknown_codec_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--frames", str(tmp_path), "--codecs", "vp9"])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "--codecs must be of rt, rtintra, dvc, dvcintra, x264" in capsys.readouterr().err


def test_a_clip_gives_its_own_planes_from_a_frame_on(data_dir):
    path = data_dir / "video" / "carphone_qcif.mp4"
    (later,) = evaluate.read_clips([f"{path}@2"], 3)
    (first,) = evaluate.read_clips([str(path)], 5)
    assert len(later) == 3
    assert later[0].y.shape == (144, 176)
    np.testing.assert_array_equal(later[0].y, first[2].y)
    with pytest.raises(SystemExit, match=r"no picture there; give PATH or PATH@FIRST_FRAME"):
        evaluate.read_clips([f"{path}@9999"], 3)


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"no sequence of \.jpg or \.png files"):
        evaluate.read_sequences(tmp_path, None, None)
