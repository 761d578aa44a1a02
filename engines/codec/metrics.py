"""Compare decoded planes with the planes that were coded: PSNR and MS-SSIM."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.codec.base import U8, Planes420
from engines.codec.colour import bgr_from_planes

F64 = NDArray[np.float64]

PEAK = 255.0
MSE_FLOOR = 1e-3
"""Equal planes count as 78 dB, so that means stay finite."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5


@dataclass(frozen=True, slots=True)
class Score:
    """How close one decoded picture is."""

    psnr_yuv_db: float
    """(6 Y + U + V) / 8."""
    psnr_rgb_db: float
    ms_ssim: float
    """Of luma; 1 is equal."""


def score(decoded: Planes420, truth: Planes420) -> Score:
    """Compare two pictures of one size, at least 176 pixels on each side."""
    y, u, v = (
        psnr_db(a, b) for a, b in ((decoded.y, truth.y), (decoded.u, truth.u), (decoded.v, truth.v))
    )
    rgb = psnr_db(_bgr(decoded), _bgr(truth))
    return Score((6 * y + u + v) / 8, rgb, ms_ssim(decoded.y, truth.y))


def psnr_db(a: U8, b: U8) -> float:
    """Peak signal-to-noise ratio of 8-bit arrays."""
    error = float(np.mean((a.astype(np.float32) - b) ** 2))
    return float(10 * np.log10(PEAK**2 / max(error, MSE_FLOOR)))


def ms_ssim(a: U8, b: U8) -> float:
    """Multi-scale structural similarity (Wang et al. 2003) of two planes."""
    smallest = _WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
    if min(a.shape) < smallest:
        raise ValueError(f"planes must be at least {smallest} on each side, got {a.shape}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        luminance, structure = _ssim_terms(x, y)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        product *= max(luminance * structure if last else structure, 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return product


def _ssim_terms(x: F64, y: F64) -> tuple[float, float]:
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x**2
    variance_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    whole = luminance * structure
    return float(whole.mean() / structure.mean()), float(structure.mean())


def _blurred(x: F64) -> F64:
    edge = _WINDOW // 2
    blurred = cv2.GaussianBlur(x, (_WINDOW, _WINDOW), _SIGMA)
    return np.asarray(blurred[edge:-edge, edge:-edge], np.float64)


def _halved(x: F64) -> F64:
    height, width = x.shape[0] & ~1, x.shape[1] & ~1
    quads = x[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(quads.mean((1, 3)), np.float64)


def _bgr(picture: Planes420) -> U8:
    return bgr_from_planes(picture.y, picture.u, picture.v)
