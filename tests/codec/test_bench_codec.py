"""The benchmark of the codec on a tiny model: its parts run, and find what they look for."""

from __future__ import annotations

import json

import numpy as np
from codec_tiny import moving_pictures, tiny_model

from benchmarks import bench_codec
from benchmarks.codec import drift, fuzz
from engines.codec.runtime import RtRuntime


def test_no_damage_of_a_tiny_recording_fails(tmp_path):
    codec = RtRuntime(tiny_model(), device="onnxruntime:cpu")
    victim = fuzz.Victim(codec, moving_pictures(2, 64, 64), tmp_path / "a.lvc")
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


def test_a_run_ends_in_gates(monkeypatch, capsys, data_dir):
    monkeypatch.setattr(drift, "READERS", drift.READERS[::2])
    arguments = ["--model", str(tiny_model()), "--data", str(data_dir), "--parts", "speed,drift"]
    arguments += ["--sizes", "424x240", "--frames", "3", "--drift-frames", "3"]
    bench_codec.main([*arguments, "--threads", "1"])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    gates = {gate["name"]: gate["value"] for gate in document["gates"]}
    assert gates["encode 424x240, fps"] > 0
    assert gates["frames whose symbols differ between engines"] == 0
    assert gates["drift between float32 engines, dB"] < 0.1
