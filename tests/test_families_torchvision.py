"""torchvision's detectors: the exported graph and our decoding give torchvision's own boxes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from engines import registry
from engines.detectors.outlines import outlines
from engines.detectors.runtime import Detections, Detector
from engines.detectors.signature import COCO91
from engines.detectors.torchvision_export import build, export_detector
from engines.errors import ModelError
from streamer.cli.models import keep

CLASSES = 7  # few, so that the networks are small and each class is seen
NAMES = ("z", "a", "b", "c", "d", "e", "f")
SIZES = {
    "ssdlite320": (320, 320),
    "ssd300": (300, 300),
    "retinanet": (224, 160),
    "fcos": (224, 160),
    "fasterrcnn": (224, 160),
    "maskrcnn": (128, 128),
}
THRESHOLDS = {
    # score and overlap, both lower or higher than usual, so that there is much to compare
    "ssdlite320": (0.16, 0.55),
    "ssd300": (0.3, 0.45),
    "retinanet": (0.02, 0.5),
    "fcos": (0.1, 0.6),
    "fasterrcnn": (0.05, 0.5),
    "maskrcnn": (0.05, 0.5),
}
SPREADS = {
    "ssdlite320": 0.8,
    "ssd300": 1.5,
    "retinanet": 1,
    "fcos": 1,
    "fasterrcnn": 1.5,
    "maskrcnn": 1.5,
}
"""Of class logits: as far apart as can be without scores that are all 1."""


def names_of(family: str) -> tuple[str, ...]:
    """RetinaNet and FCOS have no background; what they call class 0 is reported too."""
    return NAMES if family in ("retinanet", "fcos") else ("-", *NAMES[1:])


def picture(width: int, height: int) -> np.ndarray:
    """Shapes of all sizes, so that each place of it says something else."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (3, height, width), np.uint8)
    for _ in range(60):
        x, y = random.integers(0, width - 8), random.integers(0, height - 8)
        w, h = random.integers(8, width // 2), random.integers(8, height // 2)
        pixels[:, y : y + h, x : x + w] //= 4
        pixels[:, y : y + h, x : x + w] += random.integers(0, 192, (3, 1, 1), np.uint8)
    return pixels


def random_net(family: str) -> nn.Module:
    """A network whose random weights say many different things."""
    torch.manual_seed(3)
    net = build(family, classes=CLASSES)
    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            if name.endswith("bn3"):  # or fifty random layers make much of the last bit
                nn.init.constant_(layer.weight, 0.2)
        last = name.startswith(("head", "roi_heads.box_predictor", "rpn.head"))
        if last and isinstance(layer, nn.Conv2d | nn.Linear):
            boxes = "regression" in name or "bbox" in name
            spread = (0.1 if boxes else SPREADS[family]) / layer.weight[0].numel() ** 0.5
            nn.init.normal_(layer.weight, std=spread)
            if name == "head.regression_head.bbox_reg" and family == "fcos":
                nn.init.constant_(layer.bias, 1.0)  # or most of its boxes are empty
    if family != "ssd300":  # which normalises nothing
        pixels = torch.from_numpy(picture(*SIZES[family])).float()[None] / 64 - 2
        with torch.no_grad():  # statistics of this very picture, so that no signal dies on its way
            net.train()
            net.backbone(pixels.repeat(2, 1, 1, 1))
    return net.eval()


def as_detected(family: str, net: nn.Module, pixels: np.ndarray) -> Detections:
    """What torchvision's own forward gives."""
    score, iou = THRESHOLDS[family]
    head = net.roi_heads if hasattr(net, "roi_heads") else net
    head.score_thresh, head.nms_thresh = score, iou
    width, height = SIZES[family]
    net.transform.min_size, net.transform.max_size = (min(width, height),), max(width, height)
    if hasattr(head, "detections_per_img"):
        head.detections_per_img = 120 if family == "maskrcnn" else 300  # each costs a mask
    with torch.no_grad():
        found = net([torch.from_numpy(pixels).float() / 255])[0]
    return Detections(
        found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy().astype(np.int16)
    )


@pytest.mark.slow  # VGG-16 and ResNet-50 in fp32, several times
@pytest.mark.parametrize("family", SIZES)
def test_export_and_decoding_equal_torchvision(family: str, tmp_path: Path) -> None:
    net = random_net(family)
    width, height = SIZES[family]
    pixels = picture(width, height)
    wanted = as_detected(family, net, pixels)
    assert len(wanted) >= 100
    assert len(set(wanted.classes.tolist())) >= 2

    path = tmp_path / f"{family}.onnx"
    export_detector(net, family, path, size=SIZES[family], classes=names_of(family))
    score, iou = THRESHOLDS[family]
    detector = Detector.load(path, device="onnxruntime:cpu", score=score, nms_iou=iou)
    assert detector.signature.family == family
    assert detector.classes == names_of(family)
    outputs = detector.engine.infer({"picture": pixels[None]})
    found = detector.decode(outputs, width, height)
    detector.close()
    assert len(found.outlines) == (len(found) if family == "maskrcnn" else 0)

    same = found.classes[:, None] == wanted.classes
    same &= np.abs(found.scores[:, None] - wanted.scores) < 1e-4
    apart = np.abs(found.boxes_xyxy[:, None] - wanted.boxes_xyxy).max(axis=2)
    equal = same & (apart < 0.01)
    # One box whose overlap is the limit itself may fall on either side with the last digit.
    assert np.count_nonzero(~equal.any(axis=0)) <= 1
    assert np.count_nonzero(~equal.any(axis=1)) <= 1


def test_outlines_enclose_what_torchvision_pastes() -> None:
    random = np.random.default_rng(2)
    coarse = torch.from_numpy(random.random((12, 1, 5, 5), np.float32))
    masks = nn.functional.interpolate(coarse, (28, 28), mode="bicubic").clamp(0, 1)
    corners = random.uniform(0, 100, (12, 2))
    boxes = np.hstack([corners, corners + random.uniform(60, 150, (12, 2))]).clip(0, 200)
    boxes = boxes.astype(np.float32)
    wanted = paste_masks_in_image(masks, torch.from_numpy(boxes), (200, 200))[:, 0].numpy() >= 0.5
    for parts, pixels in zip(outlines(masks[:, 0].numpy(), boxes, (200, 200)), wanted, strict=True):
        drawn = np.zeros((200, 200), np.uint8)
        cv2.fillPoly(drawn, [np.rint(part - 0.5).astype(np.int32) for part in parts], 1)
        filled = np.zeros((200, 200), np.uint8)  # holes are filled
        rings, _ = cv2.findContours(
            pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(filled, rings, -1, 1, cv2.FILLED)
        assert np.count_nonzero(drawn & filled) / np.count_nonzero(drawn | filled) > 0.9


@pytest.mark.slow  # an export
def test_pulled_weights_become_a_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_MODELS", str(tmp_path / "models"))
    weights = tmp_path / "ssdlite.pth"
    torch.save(build("ssdlite320").state_dict(), weights)
    kept = keep(registry.public("ssdlite"), weights)
    assert (kept.name, kept.origin, kept.licence) == ("ssdlite", "pulled", "BSD-3-Clause")
    assert not weights.exists()
    detector = Detector.load("ssdlite", device="openvino:cpu")
    assert detector.classes == COCO91
    assert detector.max_batch is None
    detector.close()

    weights.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="must hold torchvision's weights of ssdlite320"):
        keep(registry.public("ssdlite"), weights)
