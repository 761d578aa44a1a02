"""A reader of .lvc files written from FORMAT.md alone: plain Python and numpy, slow, no engines."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

MASK = (1 << 64) - 1


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def svarint(self) -> int:
        n = self.varint()
        return n // 2 if n % 2 == 0 else -(n + 1) // 2


class RangeDecoder:
    def __init__(self, words: list[int]) -> None:
        self.words, self.low, self.range, self.point = words, 0, MASK, 0
        for _ in range(2):
            self._next()

    def _next(self) -> None:
        word = self.words.pop(0) if self.words else 0
        self.point = (self.point << 32 | word) & MASK

    def entry(self, sums: list[int]) -> int:
        scale = self.range >> 24
        t = ((self.point - self.low) & MASK) // scale
        assert t < 1 << 24, "damaged"
        k = next(k for k in range(len(sums) - 1) if sums[k] <= t < sums[k + 1])
        self.low = (self.low + scale * sums[k]) & MASK
        self.range = scale * (sums[k + 1] - sums[k])
        if self.range < 1 << 32:
            self.low, self.range = self.low << 32 & MASK, self.range << 32
            self._next()
        return k


class Model:
    def __init__(self, folder: Path) -> None:
        self.arrays = {}
        with zipfile.ZipFile(folder / "entropy.npz") as archive:
            for name in archive.namelist():
                self.arrays[name.removesuffix(".npy")] = np.load(io.BytesIO(archive.read(name)))
        self.meta = json.loads(bytes(self.arrays["meta"]))

    def tables(self, name: str) -> list[list[int]]:
        counts, start = self.arrays[f"{name}/counts"].tolist(), self.arrays[f"{name}/start"]
        tables = []
        for begin, end in pairwise(start):
            sums = [0]
            for count in counts[begin:end]:
                sums.append(sums[-1] + count)
            tables.append(sums)
        return tables


class Payload:
    def __init__(self, data: bytes) -> None:
        head = Bytes(data)
        self.side = Bytes(head.take(head.varint()))
        words = data[head.at :]
        self.coder = RangeDecoder(list(struct.unpack(f"<{len(words) // 4}I", words)))

    def array(self, table_of: np.ndarray, tables: list[list[int]]) -> np.ndarray:
        flat_tables = table_of.ravel().tolist()
        out = np.zeros(len(flat_tables), np.int64)
        for table in sorted(set(flat_tables)):
            places = [i for i, t in enumerate(flat_tables) if t == table]
            sums = tables[table]
            if len(sums) == 1:
                at = -1
                for _ in range(self.side.varint()):
                    at += self.side.varint() + 1
                    out[places[at]] = self.side.svarint()
                continue
            limit = (len(sums) - 1 - 2) // 2
            escapes = []
            for place in places:
                k = self.coder.entry(sums)
                out[place] = k - limit
                if k == 2 * limit + 1:
                    escapes.append(place)
            for place in escapes:
                e = self.side.svarint()
                out[place] = limit + 1 + e if e >= 0 else -limit + e
        return out.reshape(table_of.shape)


def scale_index(
    model: Model,
    kind: str,
    z: np.ndarray,
    m: np.ndarray,
    quality: np.ndarray,
    a_of: np.ndarray | None,
) -> np.ndarray:
    """Of even symbols without a_of, of odd ones with the magnitudes of even ones in it."""
    names = ("from_z", "from_magnitudes", "from_even", "hidden_bias", "to_index")
    a = {k: model.arrays[f"scales/{k}"].astype(np.int64) for k in names}
    bias, odd_bias = model.arrays[f"{kind}/index_bias"], model.arrays[f"{kind}/odd_bias"]
    channels, rows, columns = m.shape
    out = np.zeros_like(m)
    wide = np.pad(m, ((0, 0), (1, 1), (1, 1)))
    wide_a = None if a_of is None else np.pad(a_of, ((0, 0), (1, 1), (1, 1)))
    for i in range(rows):
        for j in range(columns):
            h = np.zeros(len(a["hidden_bias"]), np.int64)
            for k in range(len(h)):
                s = int(a["from_z"][16 * k + 4 * (i % 4) + j % 4] @ z[:, i // 4, j // 4])
                if kind == "inter":
                    n = wide[:, i : i + 3, j : j + 3].sum((1, 2))
                    s += int(a["from_magnitudes"][k, :channels] @ m[:, i, j])
                    s += int(a["from_magnitudes"][k, channels:] @ n)
                if a_of is not None:
                    n = wide_a[:, i : i + 3, j : j + 3].sum((1, 2))
                    s += int(a["from_even"][k, :channels] @ a_of[:, i, j])
                    s += int(a["from_even"][k, channels:] @ n)
                h[k] = min(max((s + int(a["hidden_bias"][k]) + 32) >> 6, 0), 255)
            sums = a["to_index"] @ h + bias[quality[i, j]]
            index = (sums + (0 if a_of is None else odd_bias) + 32) >> 6
            out[:, i, j] = np.clip(index, 0, model.meta["levels"] - 1)
    return out


def read_vectors(parts: Payload, model: Model, before: np.ndarray) -> np.ndarray:
    tables = model.tables("y")
    rule, *numbers = parts.array(np.zeros(3, np.int64), tables).tolist()
    rows, columns, _ = before.shape
    vectors = np.zeros_like(before)
    for axis, number in enumerate(numbers):
        e = parts.array(np.full((rows, columns), number), tables)
        sums = np.zeros_like(e)
        for i in range(rows):
            for j in range(columns):
                from_where = sums[i, j - 1] if j > 0 else sums[i - 1, 0] if i > 0 else 0
                sums[i, j] = e[i, j] + from_where
        vectors[:, :, axis] = np.clip(sums + rule * before[:, :, axis], -512, 512)
    return vectors


@dataclass
class Frame:
    intra: bool
    quality: int
    pts: int
    capture_ns: int
    z: np.ndarray | None
    q: np.ndarray | None
    emphasis: np.ndarray
    vectors: np.ndarray
    size: tuple[int, int]


def read_file(path: Path, folder: Path) -> tuple[dict[str, object], list[Frame], list[bytes]]:
    """Header, frames as symbols, and metadata of a whole file."""
    data = path.read_bytes()
    head = Bytes(data)
    assert head.take(8) == b"\x89LVC\r\n\x1a\n"
    assert head.take(1) == b"\x03"
    name = head.take(head.take(1)[0]).decode()
    digest = head.take(32)
    width, height, num, den = struct.unpack("<4I", head.take(16))
    colour = tuple(head.take(4))
    intra_period, refresh_period = struct.unpack("<2H", head.take(4))
    assert zlib.crc32(data[: head.at]) == struct.unpack("<I", head.take(4))[0]
    header = {"codec": name, "model": digest, "size": (width, height), "time_base": (num, den)}
    header |= {"colour": colour, "periods": (intra_period, refresh_period)}
    model = Model(folder)
    frames: list[Frame] = []
    metadata = []
    while head.at < len(data):
        assert head.take(2) == b"\xa5\x4c"
        start = head.at
        first = head.take(1)[0]
        kind, quality, length = first >> 6, first & 63, head.varint()
        if kind < 2:
            sequence, pts, capture = head.take(1)[0], head.svarint(), head.svarint()
            if kind == 0:
                size = (head.varint(), head.varint()) if sequence else (width, height)
        payload = head.take(length)
        assert zlib.crc32(data[start : head.at]) == struct.unpack("<I", head.take(4))[0]
        if kind == 2:
            metadata.append(payload)
        if kind >= 2:
            continue
        if kind == 1:
            pts, capture = pts + frames[-1].pts, capture + frames[-1].capture_ns
            assert sequence != 0
        else:
            rows, columns = -(-size[1] // 64), -(-size[0] // 64)
            emphasis = np.zeros((4 * rows, 4 * columns), np.int64)
            vectors = np.zeros((4 * rows, 4 * columns, 2), np.int64)
            before = np.zeros((model.meta["latents"], 4 * rows, 4 * columns), np.int64)
            z_before = np.zeros((model.meta["hyper"], rows, columns), np.int64)
        if kind == 1 and not payload:
            frames.append(Frame(False, quality, pts, capture, None, None, emphasis, vectors, size))
            continue
        word = "intra" if kind == 0 else "inter"
        parts = Payload(payload)
        plain = np.zeros((4 * rows, 4 * columns), np.int64)
        emphasis = parts.array(plain, model.tables("y")) + emphasis
        vectors = read_vectors(parts, model, vectors) if kind == 1 else vectors
        qualities = np.clip(emphasis + quality, 0, model.meta["qualities"] - 1)
        table = np.arange(model.meta["hyper"])[:, None, None] + np.zeros_like(z_before)
        if kind == 1:
            table = 5 * table + np.clip(z_before, -2, 2) + 2
        z = parts.array(table, model.tables(f"z_{word}"))
        z_before = z if kind == 1 else np.zeros_like(z)
        q = np.zeros_like(before)
        even = np.indices(q.shape).sum(0) % 2 == 0
        for half in (even, ~even):
            a = None if half is even else np.minimum(np.abs(q), 15)
            index = scale_index(model, word, z, before, qualities, a)
            q[half] = parts.array(index[half], model.tables("y"))
        before = np.minimum(np.abs(q), 15) if kind == 1 else np.zeros_like(q)
        frames.append(Frame(kind == 0, quality, pts, capture, z, q, emphasis, vectors, size))
    return header, frames, metadata
