"""A surface is blocked when something hides it where it usually is, for long enough."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.config import SurfaceConfig
from streamer.configfile import build_config
from streamer.errors import ConfigError
from streamer.surfaces import USUAL_S, Surface

CLASSES = ("sky", "road", "car", "tree")
SKY, ROAD, CAR, TREE = range(4)


def street(*, car_columns: int = 0, by: int = CAR) -> np.ndarray:
    """Sky above, road below; the first columns of the road hidden."""
    labels = np.full((20, 40), SKY, np.uint8)
    labels[10:] = ROAD
    labels[10:, :car_columns] = by
    return labels


def surface(**rule: object) -> Surface:
    config = SurfaceConfig(surface="road", **{"share": 0.3, "for_s": 5.0, **rule})
    return Surface("lane", config, CLASSES)


def told(watched: Surface, maps: list[tuple[float, np.ndarray]]) -> list[tuple[float, str, float]]:
    return [
        (at, happening.kind, happening.fields["share"])
        for at, labels in maps
        for happening in watched.update(labels, at)
    ]


def test_blocked_once_and_cleared_once() -> None:
    maps = [(float(t), street(car_columns=20 if 10 <= t < 30 else 0)) for t in range(50)]
    assert told(surface(), maps) == [
        (15.0, "surface.blocked", 0.5),
        (35.0, "surface.cleared", 0.0),
    ]


def test_who_passes_by_blocks_nothing() -> None:
    maps = [(float(t), street(car_columns=40 if t % 5 == 0 else 0)) for t in range(100)]
    assert told(surface(), maps) == []


def test_only_some_classes_block() -> None:
    maps = [(float(t), street(car_columns=20 if t else 0, by=TREE)) for t in range(20)]
    assert told(surface(by=("car",)), maps) == []
    assert [kind for _, kind, _ in told(surface(), maps)] == ["surface.blocked"]


def test_what_stays_becomes_usual() -> None:
    """A parked lorry is no road any more; the event before it ends, and none follows."""
    maps = [(float(t), street(car_columns=20 if t > 5 else 0)) for t in range(round(5 * USUAL_S))]
    kinds = [kind for _, kind, _ in told(surface(), maps)]
    assert kinds == ["surface.blocked", "surface.cleared"]


def test_a_camera_that_turned_learns_anew() -> None:
    watched = surface()
    told(watched, [(float(t), street()) for t in range(10)])
    watched.forget()
    assert told(watched, [(float(t), street(car_columns=20)) for t in range(10, 30)]) == []


def test_a_sliver_is_not_judged() -> None:
    labels = np.full((20, 40), SKY, np.uint8)
    labels[0, 0] = ROAD
    hidden = np.full((20, 40), CAR, np.uint8)
    assert told(surface(for_s=0.0), [(0.0, labels), (1.0, hidden), (2.0, hidden)]) == []


def test_unknown_classes_are_named() -> None:
    with pytest.raises(ValueError, match=r"surfaces\.lane: 'lava' must be a class of the segmente"):
        surface(by=("lava",))


def test_rules_are_checked() -> None:
    data = {
        "cameras": {"a": "x"},
        "segmenter": {"surfaces": {"lane": {"surface": "road", "shore": 0.3}}},
    }
    with pytest.raises(ConfigError, match=r"surfaces\.lane\.shore: unknown key; did you mean 'sha"):
        build_config(data)
