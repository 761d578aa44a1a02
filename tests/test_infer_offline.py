"""Two files through the whole pipeline with batches and second looks: exact, also after a crash."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import Run, assert_no_gaps
from tiny_networks import VERIFIER, save_means

SCENE = "synthetic:street?seed={}&size=320x240&fps=10"


def scene(folder: Path) -> Path:
    """Two cameras, batches of two, two second looks."""
    verifier = save_means(folder / "bright.onnx", VERIFIER)
    says = save_means(folder / "hue.onnx", VERIFIER | {"kind": "attributes"})
    config = {
        "cameras": {
            f"c{seed}": {"source": SCENE.format(seed), "regime": "offline"} for seed in (3, 4)
        },
        "detector": {"batch": 2, "then": [{"model": str(verifier)}, {"model": str(says)}]},
        "duration_s": 6.0,
    }
    path = folder / "scene.yaml"
    path.write_text(json.dumps(config))
    return path


def found(run: Run) -> dict[tuple[object, object], object]:
    """What was detected, by camera and frame."""
    return {
        (event["camera"], event["frame"]): (event["pts_s"], event["objects"])
        for event in run.events()
        if event["type"] == "detection"
    }


def test_a_crash_of_infer_loses_nothing_and_changes_nothing(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    with Run(tmp_path / "whole", scene(tmp_path)) as whole:
        summary = whole.finish()
    assert summary["frames_out"] == 120
    with Run(tmp_path / "killed", scene(tmp_path)) as killed:
        killed.wait_event("detection", count=10)
        killed.stage("infer").kill()
        summary = killed.finish()
    assert summary["restarts"] == 1
    assert summary["frames_out"] == 120
    assert_no_gaps(killed.events())
    assert len(found(whole)) > 60
    assert found(killed) == found(whole)
