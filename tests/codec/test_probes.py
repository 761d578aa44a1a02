"""What is measured of a codec beyond its curve, on a tiny untrained one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_tiny import TINY, moving_pictures, tiny_model
from test_dvc_runtime import model as tiny_dvc

from engines.codec.dvc_runtime import DvcRuntime
from engines.codec.export import export_model
from engines.codec.load import load_codec
from engines.codec.probes import (
    Scene,
    code_scene,
    quality_map_gain,
    rate_deviation,
    record_sizes,
    street_scene,
)
from engines.codec.rate import ConstantQuality
from engines.codec.rt import RtCodec
from engines.codec.runtime import RtRuntime
from engines.errors import ModelError


def runtime() -> RtRuntime:
    return RtRuntime(tiny_model(), device="onnxruntime:cpu")


def test_a_folder_says_which_codec_it_holds(tmp_path):
    assert type(load_codec(tiny_model(), refresh_period=7)) is RtRuntime
    assert type(load_codec(tiny_dvc())) is DvcRuntime
    with pytest.raises(ModelError, match=r"entropy\.npz: no such file"):
        load_codec(tmp_path)


def test_objects_of_the_street_are_where_its_truth_says():
    scene = street_scene(2, noise=2.0)
    assert scene.masks[0].shape == (15, 27)
    assert 0 < scene.masks[0].mean() < 0.5
    assert scene.pictures[0].y.shape == (240, 424)
    assert not np.array_equal(scene.pictures[0].y, scene.pictures[1].y)
    still = street_scene(2, noise=0.0, still=True).pictures
    np.testing.assert_array_equal(still[0].y, still[1].y)
    low, high = scene.maps(9)[0].min(), scene.maps(9)[0].max()
    assert high - low == 9


def test_a_quality_map_is_measured_at_equal_bytes(tmp_path):
    torch.manual_seed(0)
    export_model(RtCodec(TINY), tmp_path)  # a plain transform codec, before any training
    codec = RtRuntime(tmp_path, device="onnxruntime:cpu")
    pictures = moving_pictures(2, 128, 64)
    mask = np.zeros((4, 8), bool)
    mask[:, :4] = True
    scene = Scene(pictures, [mask, mask])
    plain = code_scene(codec, scene, quality=30, maps=[None, None])
    found = quality_map_gain(codec, scene, quality=30, most=16)
    assert found["bytes"] == plain.payload_bytes
    assert found["objects_gain_db"] > 0
    assert found["frame_loss_db"] > -found["objects_gain_db"]
    without = quality_map_gain(codec, scene, quality=30, most=0)
    assert without["objects_gain_db"] == pytest.approx(0, abs=0.02)


def test_sizes_of_records_are_those_of_the_file():
    sizes = record_sizes(runtime(), moving_pictures(3, 64, 64), ConstantQuality(20), (64, 64))
    assert len(sizes) == 3
    assert sizes[0] > 100


def test_deviation_is_the_worst_of_all_windows_but_the_first():
    right = [500] * 250  # 100 kbit/s at 25 fps
    assert rate_deviation(right, 100) == 0
    assert rate_deviation([9999, *right[1:]], 100) == 0
    assert rate_deviation([*right[:249], 500 + 6250], 100) == 10.0
    with pytest.raises(ValueError, match=r"frames must be at least 250, got 9"):
        rate_deviation([500] * 9, 100)
