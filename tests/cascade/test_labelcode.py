"""Maps of labels survive the wire, and nothing that is damaged does."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.cascade.labelcode import LARGEST_PX, decode, encode


def street(height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    labels = np.zeros((height, width), np.uint8)
    labels[height // 2 :] = 3
    labels[height // 3 : height // 2, width // 4 : width // 3] = 8
    return labels


@pytest.mark.parametrize("shape", [(1, 1), (1, 160), (160, 1), (97, 131)])
def test_a_map_that_fits_comes_back_as_it_was(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 11, shape, np.uint8)
    assert (decode(encode(labels), classes=11) == labels).all()


@pytest.mark.parametrize("shape", [(360, 480), (1, 4000), (4000, 1), (1, 10_000), (2, 999)])
def test_a_larger_map_is_thinned(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 11, shape, np.uint8)
    small = decode(encode(labels))
    assert max(small.shape) <= 160
    assert min(small.shape) >= 1


def test_thinning_keeps_where_things_are() -> None:
    small = decode(encode(street(360, 480), longest_px=120))
    assert small.shape == (90, 120)
    assert (small == street(90, 120)).mean() > 0.97


def test_a_street_takes_few_bytes() -> None:
    assert len(encode(street())) < 200


@pytest.mark.parametrize(
    "labels",
    [np.zeros((2, 2), np.int32), np.zeros((0, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)],
)
def test_what_is_no_map_is_refused(labels: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"labels must be \(h, w\) uint8 and not empty"):
        encode(labels)


def test_longest_px_is_checked() -> None:
    with pytest.raises(ValueError, match=r"longest_px must be in 1\.\.4096, got 0"):
        encode(street(), longest_px=0)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"LM", "must have 7 bytes or more, got 2"),
        (b"XX" + encode(street())[2:], "must begin with b'LM' and version 1"),
        (b"LM\x02" + encode(street())[3:], "is the sender newer"),
        (struct.pack("<2sBHH", b"LM", 1, 0, 5), "sides must be in 1..4096, got 0x5"),
        (struct.pack("<2sBHH", b"LM", 1, LARGEST_PX + 1, 5), "sides must be in"),
        (encode(street())[:-6], "and no end"),
        (encode(street())[:7] + b"nonsense", "are damaged"),
        (encode(street()) + b"more", "and nothing else"),
        (struct.pack("<2sBHH", b"LM", 1, 9, 9) + zlib.compress(bytes(80)), "got 80 labels"),
        (struct.pack("<2sBHH", b"LM", 1, 9, 9) + zlib.compress(bytes(10**7)), "got 82 labels"),
    ],
)
def test_damage_is_refused(code: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(code)


def test_unknown_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="labels must be below 8, got 8; are both ends"):
        decode(encode(street()), classes=8)


@given(st.binary(max_size=80))
def test_any_bytes_give_a_map_or_one_error(tail: bytes) -> None:
    for code in (tail, struct.pack("<2sBHH", b"LM", 1, 4, 4) + tail):
        try:
            labels = decode(code)
        except ValueError as error:
            labels = np.zeros((1, int(str(error).startswith("label map: "))), np.uint8)
        assert labels.ndim == 2
        assert labels.size
