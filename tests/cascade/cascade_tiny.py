"""A small cascade with random weights, and folders of random labelled pictures, for the tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from engines.cascade.export import export, rounded, signature_of, stage_graph
from engines.cascade.model import Cascade, Config
from engines.cascade.signature import FILES, Signature

WIDTH, HEIGHT = 128, 96

torch.set_num_threads(1)


def random_net(seed: int = 0, variant: str = "small") -> Cascade:
    """A network whose batch norms are no identities and whose confidences spread widely."""
    torch.manual_seed(seed)
    net = Cascade(Config(variant=variant))  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.4)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.3, 0.9)
    for stage in (net.stage1, net.stage2, net.stage3):
        torch.nn.init.normal_(stage.head[1].weight, std=0.35)
    net.prior.uniform_(-0.3, 0.3)
    return net.eval()


def exported(folder: Path, net: Cascade, rho: float, share: float = 0.25) -> Signature:
    """Write a network's three stages with a small input."""
    signature = signature_of(net, width=WIDTH, height=HEIGHT, rho=rho, share=share)
    export(net, folder, signature)
    return signature


def oracle(net: Cascade) -> Cascade:
    """What the exported files compute, in torch."""
    return rounded(net)


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Smooth random colours, (h, w, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(16, 236, (max(height // 12, 1), max(width // 12, 1), 3), np.uint8)
    smooth: NDArray[np.uint8] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth


def planes(
    seed: int, width: int = WIDTH, height: int = HEIGHT
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """The same as planes of 4:2:0."""
    half = picture(seed + 1, (width + 1) // 2, (height + 1) // 2)
    y = np.ascontiguousarray(picture(seed, width, height)[..., 0])
    return y, np.ascontiguousarray(half[..., 1]), np.ascontiguousarray(half[..., 2])


def write_split(folder: Path, split: str, count: int = 4, size: tuple[int, int] = (96, 64)) -> None:
    """Pictures of two colours with the labels road and sky, and a strip of void."""
    for name in ("images", "labels"):
        (folder / split / name).mkdir(parents=True)
    random = np.random.default_rng(7)
    width, height = size
    for index in range(count):
        labels = np.zeros((height, width), np.uint8)
        labels[int(random.integers(height // 3, height - height // 3)) :] = 3
        colours = np.zeros((12, 3), np.uint8)
        colours[0], colours[3] = (230, 160, 90), (60, 60, 60)
        noise = random.integers(0, 20, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / split / "images" / f"{index}.png"), colours[labels] + noise)
        labels[:, :4] = 11
        cv2.imwrite(str(folder / split / "labels" / f"{index}.png"), labels)


def write_unchecked(folder: Path, net: Cascade, rho: float) -> None:
    """Write three stages without comparing them with torch, as only damaged weights need it."""
    signature = signature_of(net, width=WIDTH, height=HEIGHT, rho=rho)
    for number, file in enumerate(FILES, start=1):
        onnx.save(stage_graph(net, number, signature), folder / file)
