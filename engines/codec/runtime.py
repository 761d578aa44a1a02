"""Run the exported `rt` codec: planes to bytes and back, on any engine; numpy, no torch.

Networks give means and features, whose last digits differ between machines; the symbols do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import Array
from engines.codec.base import U8, Codec, Pack, Picture, Planes420, check_quality
from engines.codec.entropy import FrameReader, FrameWriter
from engines.codec.graphs import Graphs, channel_index
from engines.codec.model import ModelFile
from engines.codec.scales import MAGNITUDE_LIMIT, IntegerScales
from engines.codec.schedule import is_refresh

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

DECODER_FILES = ("decode_intra.onnx", "decode_inter.onnx", "refresh.onnx")
ENCODER_FILES = ("encode_intra.onnx", "encode_inter.onnx")
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class RtState:
    """What both sides remember of the frame before."""

    memory: F32
    """(1, channels, h/8, w/8) of the padded size; may differ a little between machines."""
    magnitudes: I32 | None
    """(latents, h/16, w/16) of the last symbols, 0..15, None after an intra frame."""
    position: int
    """Frames since the intra frame."""
    emphasis: I32
    """(h/16, w/16) that was added to the quality of each block of the last frame."""
    quality: int
    """Of the last frame that was no repetition."""
    picture: Picture
    """The source of the last frame in an encoder, what became of it in a decoder."""


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
    ) -> None:
        """Read a model folder; graphs are loaded when they are first needed.

        Args:
            folder: made by export.py.
            device, threads, precision: see engines.load.load_engine.
            refresh_period: frames between two rebuildings of the memory from the decoded picture,
                counted from the intra frame; 0 for never. Both sides need the same.

        Raises:
            ModelError: a file of the model is missing or damaged.
        """
        self._file = ModelFile.read(folder, decodes=DECODER_FILES)
        self._graphs = Graphs(Path(folder), device=device, threads=threads, precision=precision)
        self.name = self._file.name
        self.model_hash = self._file.model_hash
        self.refresh_period = refresh_period
        self.qualities = self._file.meta["qualities"]
        levels, z_limit = self._file.meta["levels"], self._file.meta["z_limit"]
        self._y_tables = self._file.tables("y")
        self._z_tables = {kind: self._file.tables(f"z_{kind}") for kind in ("intra", "inter")}
        self._scales = {
            kind: IntegerScales.from_arrays(
                self._file.group(kind), levels=levels, z_limit=z_limit, where=f"{folder} {kind}"
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
    ) -> tuple[Pack, RtState]:
        """Code one picture. See base.Codec."""
        check_quality(quality, self.qualities)
        added = _padded(emphasis, *frame.y.shape)
        if state is not None and _is_repetition(frame, quality, added, state):
            return bytes, replace(state, position=state.position + 1)
        kind, memory, position = self._begin(state)
        blocks = _blocks_of(frame)
        qualities = self._qualities(quality, added)
        inputs: dict[str, Array] = {"blocks": blocks, "quality": qualities[None].astype(np.int64)}
        if memory is not None:
            inputs["memory"] = memory
        out = self._graphs.run(f"encode_{kind}", inputs)
        z, q = (np.rint(out[name][0]).astype(np.int32) for name in ("z", "q"))
        change = added if state is None else added - state.emphasis

        def pack() -> bytes:
            writer = FrameWriter()
            writer.write(change, np.zeros(change.shape, np.uint8), self._y_tables)
            writer.write(z, channel_index(z.shape), self._z_tables[kind])
            writer.write(q, self._index(kind, z, state, qualities), self._y_tables)
            return writer.finish()

        source = Picture(np.array(frame.y), np.array(frame.u), np.array(frame.v))
        return pack, _next_state(out, q, kind, position, added, quality, source)

    def decompress(
        self, payload: bytes, state: RtState | None, *, width: int, height: int, quality: int
    ) -> tuple[Picture, RtState]:
        """Draw one picture. See base.Codec."""
        check_quality(quality, self.qualities)
        if state is not None and not payload:
            return state.picture, replace(state, position=state.position + 1)
        kind, memory, position = self._begin(state)
        q, z, added = self.parse(payload, state, width=width, height=height, quality=quality)
        inputs: dict[str, Array] = {
            "q": q[None].astype(np.float32),
            "z": z[None].astype(np.float32),
            "quality": self._qualities(quality, added)[None].astype(np.int64),
        }
        if memory is not None:
            inputs["memory"] = memory
        out = self._graphs.run(f"decode_{kind}", inputs)
        picture = _picture_of(out["blocks"][0], width, height)
        return picture, _next_state(out, q, kind, position, added, quality, picture)

    def parse(
        self, payload: bytes, state: RtState | None, *, width: int, height: int, quality: int
    ) -> tuple[I32, I32, I32]:
        """Symbols q and z of a frame and its emphasis; needs no network, and no memory.

        A repetition has none: its payload is empty.
        """
        kind = "intra" if state is None else "inter"
        rows, columns = -(-height // ALIGNMENT), -(-width // ALIGNMENT)
        reader = FrameReader(payload, where=f"{self.name} {kind} frame")
        added = reader.read(np.zeros((4 * rows, 4 * columns), np.uint8), self._y_tables)
        if state is not None:
            added += state.emphasis
        z_shape = (self._file.meta["hyper"], rows, columns)
        z = reader.read(channel_index(z_shape), self._z_tables[kind])
        limit = self._file.meta["z_limit"]
        np.clip(z, -limit, limit, out=z)
        index = self._index(kind, z, state, self._qualities(quality, added))
        return reader.read(index, self._y_tables), z, added

    def _index(self, kind: str, z: I32, state: RtState | None, quality: I32) -> NDArray[np.uint8]:
        return self._scales[kind].indices(z, state.magnitudes if state else None, quality)

    def _qualities(self, quality: int, added: I32) -> I32:
        """(h/16, w/16) quality of each block."""
        return np.asarray(np.clip(added + quality, 0, self.qualities - 1), np.int32)

    def _begin(self, state: RtState | None) -> tuple[str, F32 | None, int]:
        if state is None:
            return "intra", None, 0
        position = state.position + 1
        memory = state.memory
        if is_refresh(position, self.refresh_period):
            memory = self._graphs.run("refresh", {"memory": memory})["next_memory"]
        return "inter", memory, position

    def close(self) -> None:
        """Let go of the graphs."""
        self._graphs.close()


def _next_state(
    out: dict[str, F32],
    q: I32,
    kind: str,
    position: int,
    emphasis: I32,
    quality: int,
    picture: Picture,
) -> RtState:
    magnitudes = None if kind == "intra" else np.minimum(np.abs(q), MAGNITUDE_LIMIT)
    return RtState(out["next_memory"], magnitudes, position, emphasis, quality, picture)


def _is_repetition(frame: Planes420, quality: int, emphasis: I32, state: RtState) -> bool:
    """True if the decoder has this very picture, at this quality or a better one."""
    before = state.picture
    return (
        quality <= state.quality
        and np.array_equal(emphasis, state.emphasis)
        and all(
            np.array_equal(one, other)
            for one, other in ((frame.y, before.y), (frame.u, before.u), (frame.v, before.v))
        )
    )


def _padded(emphasis: NDArray[np.int8] | None, height: int, width: int) -> I32:
    """Emphasis of each block of the padded picture."""
    added = np.zeros((4 * -(-height // ALIGNMENT), 4 * -(-width // ALIGNMENT)), np.int32)
    if emphasis is not None:
        added[: emphasis.shape[0], : emphasis.shape[1]] = emphasis
    return added


def _blocks_of(frame: Planes420) -> F32:
    """Planes to (1, 96, h/8, w/8) of 0..255, padded to 64 by repeating the edge."""
    height, width = frame.y.shape
    rows, columns = -(-height // ALIGNMENT) * 8, -(-width // ALIGNMENT) * 8
    blocks = np.empty((1, 96, rows, columns), np.float32)
    for plane, side, first in ((frame.y, 8, 0), (frame.u, 4, 64), (frame.v, 4, 80)):
        missing = ((0, rows * side - plane.shape[0]), (0, columns * side - plane.shape[1]))
        padded = np.pad(plane, missing, mode="edge")
        parts = padded.reshape(rows, side, columns, side).transpose(1, 3, 0, 2)
        blocks[0, first : first + side * side].reshape(side, side, rows, columns)[:] = parts
    return blocks


def _picture_of(blocks: F32, width: int, height: int) -> Picture:
    """Whole numbers 0..255 of (96, h/8, w/8) to planes without the padding."""
    _, rows, columns = blocks.shape
    small = blocks.astype(np.uint8)
    planes: list[U8] = []
    for side, first, divisor in ((8, 0, 1), (4, 64, 2), (4, 80, 2)):
        parts = small[first : first + side * side].reshape(side, side, rows, columns)
        plane = parts.transpose(2, 0, 3, 1).reshape(rows * side, columns * side)
        planes.append(plane[: -(-height // divisor), : -(-width // divisor)])
    return Picture(*planes)
