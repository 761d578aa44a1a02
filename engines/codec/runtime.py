"""Run the exported `rt` codec: planes to bytes and back, on any engine; no torch.

Networks give means and features, whose last digits differ between machines; the symbols do not.
Both sides draw each picture and move it by the vectors of the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import Array
from engines.codec.base import U8, Codec, Pack, Picture, Planes420, check_quality
from engines.codec.entropy import FrameReader, FrameWriter
from engines.codec.graphs import Graphs, Networks, channel_index
from engines.codec.model import ModelFile
from engines.codec.motion import find_motion, move
from engines.codec.scales import MAGNITUDE_LIMIT, Z_CONTEXTS, IntegerScales, halves
from engines.codec.schedule import is_refresh
from engines.codec.vectors import read_vectors, write_vectors

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

DECODER_FILES = ("decode_intra.onnx", "decode_inter.onnx", "refresh.onnx")
ENCODER_FILES = ("encode_intra.onnx", "encode_inter.onnx")
ALIGNMENT = 64
AT_REST = 0.5
"""Share of blocks: a camera that rests has three in five or more, one that moves one in ten."""


@dataclass(frozen=True, slots=True)
class RtState:
    """What both sides remember of the frame before."""

    memory: F32
    """(1, channels, h/8, w/8) of the padded size; may differ a little between machines."""
    magnitudes: I32 | None
    """(latents, h/16, w/16) of the last symbols, 0..15, None after an intra frame."""
    z: I32 | None
    """(hyper, h/64, w/64) of the last frame, None after an intra frame."""
    vectors: I32
    """(h/16, w/16, 2) motion since the frame before, in quarters of a sample; zero if intra."""
    position: int
    """Frames since the intra frame."""
    emphasis: I32
    """(h/16, w/16) that was added to the quality of each block of the last frame."""
    quality: int
    """Of the last frame that was no repetition."""
    decoded: Picture
    """Planes of the padded size; may differ a little between machines."""
    source: Picture | None
    """What the encoder was given, of the padded size; None in a decoder."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """The integers of one frame; equal on every machine."""

    q: I32
    """(latents, h/16, w/16)."""
    z: I32
    """(hyper, h/64, w/64)."""
    emphasis: I32
    """(h/16, w/16)."""
    vectors: I32
    """(h/16, w/16, 2)."""


class RtRuntime(Codec[RtState]):
    """One exported `rt` model on one device; see base.Codec."""

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        threads: int = 1,
        precision: str | None = None,
        refresh_period: int = 32,
        graphs: Networks | None = None,
    ) -> None:
        """Read a model folder; graphs are loaded when they are first needed.

        Args:
            folder: made by export.py.
            device, threads, precision: see engines.load.load_engine.
            refresh_period: frames between two rebuildings of the memory from the decoded picture,
                counted from the intra frame; 0 for never. Both sides need the same.
            graphs: runs the networks in place of an engine.

        Raises:
            ModelError: a file of the model is missing or damaged.
        """
        self._file = ModelFile.read(folder, decodes=DECODER_FILES)
        self._graphs: Networks = graphs or Graphs(
            Path(folder), device=device, threads=threads, precision=precision
        )
        self.name = self._file.name
        self.model_hash = self._file.model_hash
        self.refresh_period = refresh_period
        self.qualities = self._file.meta["qualities"]
        levels, z_limit = self._file.meta["levels"], self._file.meta["z_limit"]
        self._y_tables = self._file.tables("y")
        self._z_tables = {kind: self._file.tables(f"z_{kind}") for kind in ("intra", "inter")}
        self._scales = {
            kind: IntegerScales.from_arrays(
                self._file.group("scales") | self._file.group(kind),
                levels=levels,
                z_limit=z_limit,
                where=f"{folder} {kind}",
            )
            for kind in ("intra", "inter")
        }

    def analyse(
        self,
        frame: Planes420,
        state: RtState | None,
        *,
        quality: int,
        emphasis: NDArray[np.int8] | None = None,
        vectors: I32 | None = None,
    ) -> tuple[Pack, RtState]:
        """Code one picture. See base.Codec."""
        check_quality(quality, self.qualities)
        added = _padded(emphasis, *frame.y.shape)
        source = _padded_picture(frame)
        if state is not None and _is_repetition(source, quality, added, state):
            return bytes, replace(state, position=state.position + 1)
        qualities = self._qualities(quality, added)
        inputs: dict[str, Array] = {
            "blocks": _blocks_of(source),
            "quality": qualities[None].astype(np.int64),
        }
        if state is None:
            vectors = _no_motion(added)
        else:
            assert state.source is not None, "a decoder's state can't encode"
            if vectors is None:
                vectors = find_motion(source.y, state.source.y)
            inputs |= self._remembered(state, vectors)
        kind = _kind_of(state)
        out = self._graphs.run(f"encode_{kind}", inputs)
        z, q = (np.rint(out[name][0]).astype(np.int32) for name in ("z", "q"))

        def pack() -> bytes:
            writer = FrameWriter()
            change = added if state is None else added - state.emphasis
            writer.write(change, np.zeros(change.shape, np.uint8), self._y_tables)
            if state is not None:
                write_vectors(writer, vectors, state.vectors, self._y_tables)
            writer.write(z, _z_index(z.shape, state), self._z_tables[kind])
            scales = self._scales[kind]
            sums = scales.sums(z, state.magnitudes if state else None)
            even, odd = halves(q.shape)
            writer.write(q.take(even), scales.even(sums, qualities).take(even), self._y_tables)
            seen = np.zeros_like(q)
            seen.put(even, _magnitudes(q.take(even)))
            index = scales.odd(sums, qualities, seen)
            writer.write(q.take(odd), index.take(odd), self._y_tables)
            return writer.finish()

        symbols = Symbols(q, z, added, vectors)
        return pack, _next_state(out, symbols, state, quality, source)

    def is_at_rest(self, state: RtState) -> bool | None:
        """See base.Codec."""
        if state.position == 0:
            return None
        return bool((state.vectors == 0).all(-1).mean() > AT_REST)

    def find_motion(self, frame: Planes420, before: Planes420) -> I32:
        """Search both pictures. See base.Codec."""
        return find_motion(_padded_luma(frame), _padded_luma(before))

    def decompress(
        self, payload: bytes, state: RtState | None, *, width: int, height: int, quality: int
    ) -> tuple[Picture, RtState]:
        """Draw one picture. See base.Codec."""
        check_quality(quality, self.qualities)
        if state is not None and not payload:
            again = replace(state, position=state.position + 1)
            return _cropped(state.decoded, width, height), again
        symbols = self.parse(payload, state, width=width, height=height, quality=quality)
        inputs: dict[str, Array] = {
            "q": symbols.q[None].astype(np.float32),
            "z": symbols.z[None].astype(np.float32),
            "quality": self._qualities(quality, symbols.emphasis)[None].astype(np.int64),
        }
        if state is not None:
            inputs |= self._remembered(state, symbols.vectors)
        out = self._graphs.run(f"decode_{_kind_of(state)}", inputs)
        after = _next_state(out, symbols, state, quality, None)
        return _cropped(after.decoded, width, height), after

    def parse(
        self, payload: bytes, state: RtState | None, *, width: int, height: int, quality: int
    ) -> Symbols:
        """The symbols of a frame; needs no network, and no memory.

        A repetition has none: its payload is empty.

        Raises:
            BitstreamError: the bytes are damaged, or of another kind of frame.
        """
        kind = _kind_of(state)
        rows, columns = -(-height // ALIGNMENT), -(-width // ALIGNMENT)
        where = f"{self.name} {kind} frame"
        reader = FrameReader(payload, where=where)
        added = reader.read(np.zeros((4 * rows, 4 * columns), np.uint8), self._y_tables)
        vectors = _no_motion(added)
        if state is not None:
            added += state.emphasis
            vectors = read_vectors(reader, state.vectors, self._y_tables, where=where)
        z_shape = (self._file.meta["hyper"], rows, columns)
        z = reader.read(_z_index(z_shape, state), self._z_tables[kind])
        limit = self._file.meta["z_limit"]
        np.clip(z, -limit, limit, out=z)
        scales, qualities = self._scales[kind], self._qualities(quality, added)
        sums = scales.sums(z, state.magnitudes if state else None)
        q = np.zeros((self._file.meta["latents"], *added.shape), np.int32)
        even, odd = halves(q.shape)
        q.put(even, reader.read(scales.even(sums, qualities).take(even), self._y_tables))
        index = scales.odd(sums, qualities, _magnitudes(q))
        q.put(odd, reader.read(index.take(odd), self._y_tables))
        return Symbols(q, z, added, vectors)

    def _qualities(self, quality: int, added: I32) -> I32:
        """(h/16, w/16) quality of each block."""
        return np.asarray(np.clip(added + quality, 0, self.qualities - 1), np.int32)

    def _remembered(self, state: RtState, vectors: I32) -> dict[str, Array]:
        """What the graphs of inter frames get of the frame before."""
        memory = state.memory
        if is_refresh(state.position + 1, self.refresh_period):
            memory = self._graphs.run("refresh", {"memory": memory})["next_memory"]
        moved = move(state.decoded, vectors)
        return {"memory": memory, "change": _blocks_of(moved) - _blocks_of(state.decoded)}

    def close(self) -> None:
        """Let go of the graphs."""
        self._graphs.close()


def _kind_of(before: RtState | None) -> str:
    return "intra" if before is None else "inter"


def _next_state(
    out: dict[str, F32],
    symbols: Symbols,
    before: RtState | None,
    quality: int,
    source: Picture | None,
) -> RtState:
    return RtState(
        memory=out["next_memory"],
        magnitudes=None if before is None else _magnitudes(symbols.q),
        z=None if before is None else symbols.z,
        vectors=symbols.vectors,
        position=0 if before is None else before.position + 1,
        emphasis=symbols.emphasis,
        quality=quality,
        decoded=_picture_of(out["decoded"][0]),
        source=source,
    )


def _magnitudes(q: I32) -> I32:
    return np.minimum(np.abs(q), MAGNITUDE_LIMIT)


def _z_index(shape: tuple[int, ...], before: RtState | None) -> NDArray[np.uint8]:
    """Table of each symbol of z: one of its channel, between frames by what it was before."""
    index = channel_index(shape)
    if before is None:
        return index
    last = np.zeros(shape, np.int32) if before.z is None else before.z
    reach = Z_CONTEXTS // 2
    return np.asarray(Z_CONTEXTS * index + last.clip(-reach, reach) + reach, np.uint8)


def _is_repetition(source: Picture, quality: int, emphasis: I32, state: RtState) -> bool:
    """True if the decoder has this very picture, at this quality or a better one."""
    before = state.source
    return (
        before is not None
        and quality <= state.quality
        and np.array_equal(emphasis, state.emphasis)
        and np.array_equal(source.y, before.y)
        and np.array_equal(source.u, before.u)
        and np.array_equal(source.v, before.v)
    )


def _no_motion(emphasis: I32) -> I32:
    return np.zeros((*emphasis.shape, 2), np.int32)


def _padded(emphasis: NDArray[np.int8] | None, height: int, width: int) -> I32:
    """Emphasis of each block of the padded picture."""
    added = np.zeros((4 * -(-height // ALIGNMENT), 4 * -(-width // ALIGNMENT)), np.int32)
    if emphasis is not None:
        added[: emphasis.shape[0], : emphasis.shape[1]] = emphasis
    return added


def _padded_picture(frame: Planes420) -> Picture:
    """A copy of the planes, padded to multiples of 64."""
    luma = _padded_luma(frame)
    half = luma.shape[0] // 2, luma.shape[1] // 2
    return Picture(luma, _grown(frame.u, *half), _grown(frame.v, *half))


def _padded_luma(frame: Planes420) -> U8:
    return _grown(frame.y, *(-(-side // ALIGNMENT) * ALIGNMENT for side in frame.y.shape))


def _grown(plane: U8, height: int, width: int) -> U8:
    """A copy of a plane whose last row and column are repeated up to a size."""
    return np.pad(plane, ((0, height - len(plane)), (0, width - len(plane[0]))), mode="edge")


def _cropped(picture: Picture, width: int, height: int) -> Picture:
    half = slice((height + 1) // 2), slice((width + 1) // 2)
    return Picture(picture.y[:height, :width], picture.u[half], picture.v[half])


def _blocks_of(picture: Picture) -> F32:
    """Planes of a padded size to (1, 96, h/8, w/8) of 0..255."""
    rows, columns = (side // 8 for side in picture.y.shape)
    blocks = np.empty((1, 96, rows, columns), np.float32)
    for plane, side, first in ((picture.y, 8, 0), (picture.u, 4, 64), (picture.v, 4, 80)):
        parts = plane.reshape(rows, side, columns, side).transpose(1, 3, 0, 2)
        blocks[0, first : first + side * side].reshape(side, side, rows, columns)[:] = parts
    return blocks


def _picture_of(blocks: F32) -> Picture:
    """Whole numbers 0..255 of (96, h/8, w/8) to planes."""
    _, rows, columns = blocks.shape
    small = blocks.astype(np.uint8)
    planes: list[U8] = []
    for side, first in ((8, 0), (4, 64), (4, 80)):
        parts = small[first : first + side * side].reshape(side, side, rows, columns)
        planes.append(parts.transpose(2, 0, 3, 1).reshape(rows * side, columns * side))
    return Picture(*planes)
