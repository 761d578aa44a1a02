"""An exported network on real engines: streams against clips, batches, events, and bad input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from engines.errors import EngineMismatch, ModelError
from engines.load import load_engine
from engines.off.config import Config
from engines.off.crops import around, fill_crop, fill_frame
from engines.off.export import export
from engines.off.hysteresis import Thresholds
from engines.off.model import OffNet
from engines.off.observer import ActionChange, Observer, Options, Track
from engines.off.runtime import OffModel
from engines.off.signature import recognise

CLASSES = ("calm", "wild")
WINDOW = 6
SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def net() -> OffNet:
    """Random weights, but statistics of batch norms as after training, and heads that speak."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = OffNet(Config.small(2, width=64, height=64)).train()
    with torch.no_grad():
        for head in (net.rgb_head, *(level.head for level in net.levels)):
            head.linear.weight.normal_(std=0.05)
        for _ in range(4):
            net(torch.randint(16, 236, (2, 4, 3, 64, 64)))
    return net.eval()


@pytest.fixture(scope="module")
def frame_model(net: OffNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("off") / "frame.onnx"
    assert export(net, path, CLASSES, background="calm", scope="frame", window=WINDOW) < 1e-4
    return path


@pytest.fixture(scope="module")
def track_model(net: OffNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("off") / "track.onnx"
    export(net, path, CLASSES, background="", scope="track", window=WINDOW)
    return path


@pytest.fixture
def model(frame_model: Path) -> Iterator[OffModel]:
    model = OffModel.load(frame_model, device="onnxruntime:cpu")
    yield model
    model.close()


def clip(seed: int, samples: int = WINDOW) -> NDArray[np.uint8]:
    """Blocks that flicker, so that there is motion at every stride."""
    coarse = np.random.default_rng(seed).integers(16, 236, (samples, 3, 8, 8), np.uint8)
    return coarse.repeat(8, 2).repeat(8, 3)


def probabilities(net: OffNet, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        fused = net(torch.from_numpy(frames)[None]).fused[0]
    return np.asarray(fused.softmax(0).numpy())


@pytest.mark.parametrize(
    ("device", "precision", "tolerance"),
    [
        ("onnxruntime:cpu", None, 1e-4),
        ("openvino:cpu", "f32", 1e-4),
        ("openvino:cpu", "auto", 1e-2),
    ],
)
def test_a_stream_is_scored_as_its_clip(
    net: OffNet, frame_model: Path, device: str, precision: str | None, tolerance: float
) -> None:
    model = OffModel.load(frame_model, device=device, precision=precision)
    frames, memory = clip(1, WINDOW + 3), model.memory()
    for count, frame in enumerate(frames, 1):
        (scores,) = model.step(frame[None], [memory])
        if count < 3:
            assert scores is None  # two pictures have one motion, and nothing to compare it with
        else:
            expected = probabilities(net, frames[max(count - WINDOW, 0) : count])
            assert scores == pytest.approx(expected, abs=tolerance)
    model.close()


def test_streams_in_a_batch_do_not_touch_each_other(model: OffModel) -> None:
    clips = [clip(seed) for seed in range(3)]
    together = [model.memory() for _ in clips]
    for frames in zip(*clips, strict=True):
        batched = model.step(np.stack(frames), together)
    for frames, scores in zip(clips, batched, strict=True):
        memory = model.memory()
        for frame in frames:
            (alone,) = model.step(frame[None], [memory])
        assert scores == pytest.approx(alone, abs=1e-5)


def test_a_fixed_batch_is_filled_up_and_cut(frame_model: Path, model: OffModel) -> None:
    fixed = OffModel.load(frame_model, device="openvino:cpu", batch=2)
    assert fixed.signature.max_batch == 2
    one, other = [fixed.memory() for _ in range(3)], [model.memory() for _ in range(3)]
    for t in range(3):
        frames = np.stack([clip(seed)[t] for seed in range(3)])
        got, wanted = fixed.step(frames, one), model.step(frames, other)
    for a, b in zip(got, wanted, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    fixed.close()


def test_the_memory_of_a_stream_is_bounded_and_can_be_forgotten(model: OffModel) -> None:
    memory = model.memory()
    for frame in clip(0, 3 * WINDOW):
        model.step(frame[None], [memory])
    assert memory.maps is not None
    assert sum(x.nbytes for x in memory.maps) == model.signature.state_bytes
    assert all(x.base is None for x in memory.maps)  # no view that keeps a batch alive
    assert len(memory.logits) == WINDOW
    memory.restart()
    assert model.step(clip(0)[:1], [memory]) == [None]


def test_one_stream_cannot_take_two_samples_at_once(model: OffModel) -> None:
    memory = model.memory()
    with pytest.raises(EngineMismatch, match="must be 2 different ones"):
        model.step(clip(0)[:2], [memory, memory])
    with pytest.raises(EngineMismatch, match="planes must have shape"):
        model.step(np.zeros((1, 3, 32, 32), np.uint8), [memory])


def test_differences_stream_as_they_clip(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = replace(
        Config.small(2, width=64, height=64), modality="diff", stack=2, spatial=0, dropout=0.0
    )
    net = OffNet(config).eval()
    path = tmp_path / "diff.onnx"
    export(net, path, CLASSES, background="calm", scope="frame", window=WINDOW)
    model = OffModel.load(path, device="onnxruntime:cpu")
    memory, frames = model.memory(), clip(2)
    said = [model.step(frame[None], [memory])[0] for frame in frames]
    assert said[:4] == [None] * 4
    assert said[-1] == pytest.approx(probabilities(net, frames), abs=1e-4)
    model.close()


def changed(path: Path, out: Path, **metadata: str) -> Path:
    model = onnx.load(path)
    entries = {entry.key: entry.value for entry in model.metadata_props} | metadata
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, out)
    return out


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"family": "streamer.detector"}, "family must be streamer.off"),
        ({"classes": "a,b,c"}, "class list doesn't fit the head"),
        ({"rate": "often"}, "metadata must hold"),
        ({"background": "grey"}, "background must be a class"),
        ({"weights": "1,1"}, "must be 2 rows"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    frame_model: Path, tmp_path: Path, metadata: dict[str, str], match: str
) -> None:
    engine = load_engine(
        changed(frame_model, tmp_path / "bad.onnx", **metadata), device="onnxruntime:cpu"
    )
    with pytest.raises(ModelError, match=match):
        recognise(engine, "bad.onnx")
    engine.close()


def test_classes_must_fit_the_head(net: OffNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classes must be 2 names"):
        export(net, tmp_path / "x.onnx", ["a"], background="a", scope="frame", window=4)


def picture(seed: int, width: int = 160, height: int = 96) -> tuple[NDArray[np.uint8], ...]:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(16, 236, (height, width), np.uint8),
        rng.integers(16, 236, ((height + 1) // 2, (width + 1) // 2), np.uint8),
        rng.integers(16, 236, ((height + 1) // 2, (width + 1) // 2), np.uint8),
    )


def always(actions: str, **options: object) -> Options:
    """Thresholds so low that any score is an action: the network here knows nothing."""
    low = Thresholds(on=1e-6, off=1e-6, least_s=0.0)
    return Options(thresholds={actions: low}, only=[actions], **options)  # type: ignore[arg-type]


def watch(
    observer: Observer, camera: str, begin_s: float, end_s: float, fps: float = 25.0, **more: object
) -> list[ActionChange]:
    changes = []
    for k in range(round(begin_s * fps), round(end_s * fps)):
        size = more.get("size", (160, 96))
        changes += observer.observe(
            camera,
            round(k / fps * SECOND_NS),
            picture(k, *size),  # type: ignore[misc]
            more.get("tracks", ()),  # type: ignore[arg-type]
        )
    return changes


def test_a_scene_starts_an_action_and_a_gap_ends_it(model: OffModel) -> None:
    observer = Observer(model, always("wild"))
    (started,) = watch(observer, "gate", 0, 2)
    assert (started.kind, started.action, started.track_id) == ("started", "wild", None)
    assert observer.active("gate") == {None: ("wild",)}
    changes = watch(observer, "gate", 5, 7)
    assert [c.kind for c in changes] == ["ended", "started"]
    assert changes[0].end_ns < 2 * SECOND_NS  # type: ignore[operator]
    assert changes[1].begin_ns > 5 * SECOND_NS
    (ended,) = observer.drop("gate")
    assert ended.kind == "ended"
    assert observer.streams("gate") == []


def test_the_picture_may_change_its_size_in_mid_stream(model: OffModel) -> None:
    observer = Observer(model, always("wild"))
    changes = watch(observer, "gate", 0, 1) + watch(observer, "gate", 1, 2, size=(333, 181))
    assert [c.kind for c in changes] == ["started"]


def test_cameras_of_any_rate_are_judged_in_one_batch(model: OffModel) -> None:
    observer = Observer(model)
    one, _ = observer.gather("a", 0, picture(1))
    two, _ = observer.gather("b", 12345, picture(2))
    assert observer.judge(one + two) == []
    assert observer.gather("a", 1, picture(1)) == ([], [])  # no sample: nothing is cut or run
    assert [s.memory.samples for c in "ab" for s in observer.streams(c)] == [1, 1]


def test_people_are_followed_and_forgotten(track_model: Path) -> None:
    model = OffModel.load(track_model, device="onnxruntime:cpu")
    observer = Observer(model, always("wild"))
    both = [Track(4, (20.0, 10.0, 40.0, 70.0)), Track(9, (100.0, 5.0, 130.0, 90.0))]
    changes = watch(observer, "yard", 0, 1.5, tracks=both)
    assert {(c.kind, c.track_id) for c in changes} == {("started", 4), ("started", 9)}
    changes = watch(observer, "yard", 1.5, 3, tracks=both[:1])
    assert [(c.kind, c.track_id) for c in changes] == [("ended", 9)]
    assert [s.track_id for s in observer.streams("yard")] == [4]
    watch(observer, "yard", 3, 3.3, tracks=[Track(5, (7.0, 7.0, 7.0, 9.0))])  # no area
    assert [s.track_id for s in observer.streams("yard")] == [4]
    model.close()


def test_more_people_than_the_budget_take_turns(track_model: Path) -> None:
    model = OffModel.load(track_model, device="onnxruntime:cpu")
    observer = Observer(model, always("wild", crops_per_s=16.0))
    crowd = [Track(n, (5.0 * n, 5.0, 5.0 * n + 20, 60.0)) for n in range(5)]
    crops = 0
    for k in range(8 * 12):
        samples, _ = observer.gather("yard", k * SECOND_NS // 8, picture(k), crowd)
        assert len(samples) == 2
        crops += len(samples)
        observer.judge(samples)
    assert crops == 16 * 12
    assert {s.track_id for s in observer.streams("yard")} == set(range(5))
    model.close()


def test_unknown_classes_are_refused(model: OffModel) -> None:
    with pytest.raises(ValueError, match="classes must be of calm, wild, got run"):
        Observer(model, Options(only=["run"]))


def test_a_crop_glides_with_its_box() -> None:
    """Luma and chroma of a smooth picture are cut at the same place, to a fraction of a pixel."""
    x = np.arange(200.0)
    y_plane = np.tile(20 + x, (100, 1)).astype(np.uint8)
    chroma = np.tile(20 + 2 * np.arange(100.0) + 0.5, (50, 1)).astype(np.uint8)
    out = np.zeros((3, 32, 32), np.uint8)
    for left in (40.0, 40.25, 40.5, 41.0):
        fill_crop((y_plane, chroma, chroma), (left, 10, left + 32, 42), out)
        wanted = 20 + left + np.arange(32)
        assert np.abs(out[0, 16].astype(float) - wanted).max() <= 1
        assert np.abs(out[1, 16].astype(float) - wanted).max() <= 2


@pytest.mark.parametrize("scale", [1, 3, 7])
def test_a_large_crop_is_averaged_not_thinned_out(scale: int) -> None:
    fine = np.indices((300, 300)).sum(0) % 2 * 200 + 20  # a chessboard of pixels
    plane = fine.astype(np.uint8)
    half = np.full((150, 150), 128, np.uint8)
    out = np.zeros((3, 32, 32), np.uint8)
    fill_crop((plane, half, half), (10, 10, 10 + 32 * scale, 10 + 32 * scale), out)
    if scale > 1:
        assert np.abs(out[0].astype(float) - 120).max() <= 40
    assert (out[1:] == 128).all()


def test_what_lies_outside_the_frame_is_its_edge() -> None:
    y = np.full((20, 20), 50, np.uint8)
    half = np.full((10, 10), 128, np.uint8)
    out = np.zeros((3, 16, 16), np.uint8)
    fill_crop((y, half, half), (-30.0, -30.0, 5.0, 5.0), out)
    assert (out[0] == 50).all()
    with pytest.raises(ValueError, match="must not be empty"):
        fill_crop((y, half, half), (5.0, 5.0, 5.0, 9.0), out)
    fill_frame((y, half, half), out)
    assert (out[0] == 50).all()


def test_the_square_around_a_person_holds_its_box() -> None:
    x0, y0, x1, y1 = around((100, 50, 140, 170))
    assert (x0 + x1) / 2 == 120
    assert x1 - x0 == y1 - y0 == pytest.approx(120 * 1.2)
