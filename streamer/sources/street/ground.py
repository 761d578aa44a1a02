"""Paint asphalt, paving and road marks in perspective, pixel by pixel from street coordinates."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.sources.street.camera import HEIGHT_M
from streamer.sources.street.canvas import PAVEMENT, ROAD, Canvas
from streamer.sources.street.shapes import Rgb

KERB_NEAR_M = 9.25
BIKE_LANE_M = 10.95  # where it ends
MIDDLE_M = 14.45
BAYS_M = 17.95
KERB_FAR_M = 20.0
WALL_M = 25.0
F32 = NDArray[np.float32]

_ASPHALT, _BIKE_RED, _PAVING, _WHITE = (92, 94, 98), (148, 84, 72), (186, 178, 166), (232, 232, 226)
_TILE = 256


def paint_ground(canvas: Canvas, noise: np.random.Generator) -> None:
    """Fill everything below the horizon."""
    view = canvas.view
    height, width = canvas.labels.shape
    top = max(0, int(np.ceil(view.horizon_px - canvas.origin[1])) + 1)
    rows = np.arange(top, height) + 0.5 + canvas.origin[1] - view.horizon_px
    columns = np.arange(width) + 0.5 + canvas.origin[0] - view.width / 2
    z = (view.focal_px * HEIGHT_M / rows).astype(np.float32)[:, None]
    x = (columns.astype(np.float32)[None] * z / np.float32(view.focal_px)).astype(np.float32)
    pixel_x = z / np.float32(view.focal_px)  # how wide one pixel is on the ground
    pixel_m = z * z / np.float32(view.focal_px * HEIGHT_M)  # how deep one row is
    road = ((z > KERB_NEAR_M) & (z < KERB_FAR_M)).astype(np.float32)
    rgb = _mixed(np.broadcast_to(np.array(_PAVING, np.float32), (*x.shape, 3)), _ASPHALT, road)
    bike = _band(z, KERB_NEAR_M + 0.25, BIKE_LANE_M, pixel_m)
    rgb = _mixed(rgb, _BIKE_RED, bike * 0.75)
    rgb += (_texture(x, z, pixel_m, noise) * (1.0 + 0.5 * road))[..., None]
    rgb *= (1.0 - 0.16 * _joints(x, z, pixel_x, pixel_m) * (1 - road))[..., None]
    rgb = _mixed(rgb, _WHITE, 0.86 * _marks(x, z, pixel_x, pixel_m))
    for kerb, gutter in ((KERB_NEAR_M, 0.19), (KERB_FAR_M, -0.19)):
        stone = _band(z, kerb - 0.12, kerb + 0.12, pixel_m)
        rgb = _mixed(rgb, (206, 204, 198), stone)
        dark = _band(z, kerb + gutter - 0.07, kerb + gutter + 0.07, pixel_m)
        rgb = _mixed(rgb, (58, 58, 60), 0.6 * dark)
    canvas.rgb[top:] = np.clip(rgb, 0, 255).astype(np.uint8)
    canvas.labels[top:] = np.where(road > 0, ROAD, PAVEMENT)


def _mixed(base: F32, rgb: Rgb, part: F32) -> F32:
    out: F32 = (
        base + (np.array(rgb, np.float32) - base) * np.broadcast_to(part, base.shape[:2])[..., None]
    )
    return out


def _band(at: F32, low: float, high: float, pixel_m: F32) -> F32:
    """1 between low and high, with edges one pixel soft."""
    soft: F32 = np.clip((at - low) / pixel_m + 0.5, 0, 1) * np.clip(
        (high - at) / pixel_m + 0.5, 0, 1
    )
    return soft


def _texture(x: F32, z: F32, pixel_m: F32, noise: np.random.Generator) -> F32:
    """Grit, patches and stains; each fades where its grains get smaller than a pixel."""
    out = np.zeros(x.shape, np.float32)
    depth = np.broadcast_to(z, x.shape)
    for per_m, strength in ((0.35, 5.0), (1.7, 3.0), (7.0, 4.0), (26.0, 8.0)):
        tile = noise.standard_normal((_TILE, _TILE)).astype(np.float32)
        tile = cv2.copyMakeBorder(tile, 0, 1, 0, 1, cv2.BORDER_WRAP)
        fade = np.minimum(1.0, 0.8 / (pixel_m * per_m))
        columns, lines = np.mod(x * per_m, _TILE), np.mod(depth * per_m, _TILE)
        grit = cv2.remap(tile, columns, np.ascontiguousarray(lines), cv2.INTER_LINEAR)
        out += grit * (strength * fade)
    return out


def _joints(x: F32, z: F32, pixel_x: F32, pixel_m: F32) -> F32:
    """The gaps between paving slabs, each row of slabs shifted by half a slab."""
    slab, gap = 0.62, 0.022
    row = np.floor(z / slab)
    across = np.abs(np.mod(z, slab) - slab / 2)
    along = np.abs(np.mod(x + row * slab * 0.5, slab) - slab / 2)
    soft_z, soft_x = np.maximum(pixel_m, 0.01), np.maximum(pixel_x, 0.006)
    lines_z = np.clip((across - slab / 2 + gap) / soft_z + 0.5, 0, 1) * np.minimum(1, gap / soft_z)
    lines_x = np.clip((along - slab / 2 + gap) / soft_x + 0.5, 0, 1) * np.minimum(1, gap / soft_x)
    out: F32 = np.maximum(lines_z, lines_x).astype(np.float32)
    return out


def _marks(x: F32, z: F32, pixel_x: F32, pixel_m: F32) -> F32:
    """White lines: bicycle lane, dashed middle, parking bays and a zebra crossing."""
    zebra_at = (x > 3.2) & (x < 6.6)
    out = _band(z, BIKE_LANE_M - 0.07, BIKE_LANE_M + 0.07, pixel_m) * (1 - zebra_at)
    dashes = _band(np.mod(x, np.float32(4.0)), 0.6, 2.9, pixel_x) * (1 - zebra_at)
    out = np.maximum(out, _band(z, MIDDLE_M - 0.07, MIDDLE_M + 0.07, pixel_m) * dashes)
    out = np.maximum(out, _band(z, BAYS_M - 0.05, BAYS_M + 0.05, pixel_m) * (1 - zebra_at))
    bays = _band(np.mod(x + np.float32(0.4), np.float32(5.4)), 0.0, 0.12, pixel_x)
    out = np.maximum(out, bays * _band(z, BAYS_M, KERB_FAR_M - 0.3, pixel_m) * (1 - zebra_at))
    stripes = _band(np.mod(z - np.float32(KERB_NEAR_M), np.float32(1.0)), 0.25, 0.75, pixel_m)
    crossing = (
        _band(x, 3.4, 6.4, pixel_x)
        * stripes
        * _band(z, KERB_NEAR_M + 0.3, KERB_FAR_M - 0.3, pixel_m)
    )
    result: F32 = np.maximum(out, crossing).astype(np.float32)
    return result
