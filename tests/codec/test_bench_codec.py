"""The benchmark of the codec on a tiny model: its parts run, and find what they look for."""

from __future__ import annotations

import json

import numpy as np
import torch
from codec_tiny import TINY, lively_codec, moving_pictures, tiny_model

from benchmarks import bench_codec
from benchmarks.codec import drift, fuzz
from engines.codec.export import export_model
from engines.codec.runtime import RtRuntime


def test_no_damage_of_a_tiny_recording_fails(tmp_path):
    codec = RtRuntime(tiny_model(), device="onnxruntime:cpu")
    pictures = moving_pictures(2, 64, 64) + moving_pictures(1, 48, 32)
    victim = fuzz.Victim(codec, pictures, tmp_path / "a.lvc")
    rng = np.random.default_rng(1)
    outcomes = [
        fuzz.truncate_everywhere(victim),
        fuzz.corrupt_files(victim, 40, rng),
        fuzz.corrupt_payloads(victim, 40, rng),
    ]
    assert [o.failures for o in outcomes] == [[], [], []]
    assert outcomes[0].tried == len(victim.content)
    assert all(o.frames and o.refused for o in outcomes)
    assert all(o.frames + o.refused <= o.tried for o in outcomes)


def test_what_is_neither_frames_nor_an_error_is_a_failure(tmp_path, monkeypatch):
    codec = RtRuntime(tiny_model(), device="onnxruntime:cpu")
    victim = fuzz.Victim(codec, moving_pictures(2, 64, 64), tmp_path / "a.lvc")
    monkeypatch.setattr(victim, "_known", set())
    outcome = fuzz.Outcome()
    victim.attempt(victim.content, outcome)
    assert "records that nobody wrote" in outcome.failures[0]


def test_a_run_ends_in_gates(monkeypatch, capsys, data_dir, tmp_path):
    monkeypatch.setitem(drift.CONFIGS, "rt-tiny", TINY)
    codec = lively_codec()
    for parameter in codec.parameters():  # no two alike, as after a training
        parameter.data += 0.01 * torch.randn_like(parameter)
    export_model(codec, tmp_path)
    arguments = ["--model", str(tmp_path), "--data", str(data_dir), "--parts", "speed,drift"]
    arguments += ["--sizes", "424x240", "--frames", "3", "--drift-frames", "3"]
    bench_codec.main([*arguments, "--threads", "1"])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    gates = {gate["name"]: gate["value"] for gate in document["gates"]}
    assert gates["encode 424x240, fps"] > 0
    assert gates["frames whose symbols differ between engines"] == 0
    assert gates["drift between float32 engines, dB"] < 0.1
    assert gates[f"drift where one is {drift.SHORT.precision}, dB"] < 0.5


def test_a_short_machine_is_not_an_exact_one():
    codec = lively_codec().eval()
    blocks = torch.rand(1, 96, 8, 8)
    with torch.no_grad():
        exact = codec.embed(blocks)
        with drift.Shortened():
            short = codec.embed(blocks)
    error = (short - exact).abs().max() / exact.abs().max()
    assert 1e-5 < error < 0.03
