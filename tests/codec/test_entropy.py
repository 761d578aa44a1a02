"""Symbols to bytes and back by integer tables; damage is one clear error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.codec.entropy import TOTAL, FrameReader, FrameWriter, SymbolTables
from engines.codec.errors import BitstreamError
from engines.codec.export import whole_counts
from engines.codec.varint import VarintReader, append_signed, append_varint
from engines.errors import ModelError


def laplace_tables() -> SymbolTables:
    tables = [np.empty(0, np.uint32)]
    for scale in (0.3, 1.0, 5.0):
        limit = int(np.ceil(4 * scale))
        weight = np.exp(-np.abs(np.arange(-limit, limit + 1)) / scale)
        tables.append(whole_counts(np.append(weight, 0.01)))
    return SymbolTables(tables, where="test")


def test_symbols_survive_with_escapes_and_exceptions():
    rng = np.random.default_rng(0)
    tables = laplace_tables()
    index = rng.integers(0, 4, (6, 9, 7)).astype(np.uint8)
    values = np.rint(rng.laplace(0, np.array([0.05, 0.3, 1, 9])[index])).astype(np.int32)
    values[0, 0, 0], values[1, 2, 3] = 70_000, -70_000
    writer = FrameWriter()
    writer.write(values, index, tables)
    writer.write(values[:2], index[:2], tables)
    reader = FrameReader(writer.finish(), where="test")
    np.testing.assert_array_equal(reader.read(index, tables), values)
    np.testing.assert_array_equal(reader.read(index[:2], tables), values[:2])


def test_bytes_are_pinned():
    """A new release of the range coder that writes other bytes must not pass."""
    writer = FrameWriter()
    index = np.arange(24, dtype=np.uint8) % 4
    values = (np.arange(24, dtype=np.int32) * 7) % 11 - 5
    writer.write(values, index, laplace_tables())
    assert writer.finish().hex() == (
        "12060009000200070004000500060100020001535ba3fde262613c910e01a6d4f98481"
    )


def test_rate_is_close_to_the_entropy_of_the_tables():
    rng = np.random.default_rng(1)
    counts = whole_counts(rng.random(20))
    tables = SymbolTables([counts], where="test")
    symbols = rng.choice(20, 40_000, p=counts / TOTAL)
    symbols = symbols[symbols < 19] - 9
    writer = FrameWriter()
    writer.write(symbols.astype(np.int32), np.zeros(len(symbols), np.uint8), tables)
    ideal_bits = -np.log2(counts[symbols + 9] / TOTAL).sum()
    assert 8 * len(writer.finish()) == pytest.approx(ideal_bits, abs=100)


def test_counts_are_the_probabilities_that_are_coded():
    # a symbol with all but the least mass costs almost nothing, one with the least costs 24 bits
    counts = np.array([1, TOTAL - 3, 1, 1], np.uint32)
    tables = SymbolTables([counts], where="test")
    sizes = []
    for value in (0, -1):
        writer = FrameWriter()
        writer.write(np.full(1000, value, np.int32), np.zeros(1000, np.uint8), tables)
        sizes.append(len(writer.finish()))
    assert sizes[0] <= 9
    assert sizes[1] == pytest.approx(3000, abs=8)


@pytest.mark.parametrize("counts", [[1, 2, 3, 4], [TOTAL], [0, TOTAL - 2, 1, 1], [TOTAL - 2, 1, 1]])
def test_tables_of_another_form_are_refused(counts):
    with pytest.raises(ModelError, match=r"x: table 0 must be an even number of counts >= 1"):
        SymbolTables([np.array(counts, np.uint32)], where="x")


def test_symbols_beyond_all_reason_are_refused():
    with pytest.raises(ValueError, match="symbols must be below 1048576, got 1048576"):
        FrameWriter().write(np.array([1 << 20], np.int32), np.zeros(1, np.uint8), laplace_tables())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 3))
def test_any_bytes_decode_or_are_refused(payload, table):
    index = np.full(50, table, np.uint8)
    try:
        values = FrameReader(payload, where="fuzz").read(index, laplace_tables())
    except BitstreamError as error:
        assert str(error).startswith("fuzz: ")  # noqa: PT017 - both outcomes are right
    else:
        assert values.shape == (50,)


def test_lengths_that_contradict_each_other_are_refused():
    with pytest.raises(BitstreamError, match=r"side part of 9 bytes and whole words must fill 3"):
        FrameReader(bytes([9, 0, 0]), where="frame 7")


@given(st.lists(st.integers(-(1 << 61), 1 << 61), max_size=8))
def test_numbers_survive(numbers):
    out = bytearray()
    for number in numbers:
        append_signed(out, number)
        append_varint(out, abs(number))
    reader = VarintReader(bytes(out), where="test")
    assert [(reader.signed(), reader.unsigned()) for _ in numbers] == [(n, abs(n)) for n in numbers]


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 20])
def test_a_number_without_end_is_refused(data):
    with pytest.raises(BitstreamError, match="has no end"):
        VarintReader(data, where="test").unsigned()
