"""Run the exported `dvc` codec: planes to bytes and back, on any engine; numpy, no torch.

One model has one quality. The state is the decoded picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import Array
from engines.codec.base import U8, Codec, Pack, Picture, Planes420, check_quality
from engines.codec.entropy import FrameReader, FrameWriter
from engines.codec.graphs import Graphs, channel_index
from engines.codec.integer_layers import read_layers, run_layers
from engines.codec.model import ModelFile

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

DECODER_FILES = ("decode_intra.onnx", "decode_inter.onnx")
ALIGNMENT = 64
DOUBLES = (True, True, False)


@dataclass(frozen=True, slots=True)
class DvcState:
    """The decoded picture, 0..1, padded: (1, 3, h, w); may differ a little between machines."""

    reference: F32


class DvcRuntime(Codec[DvcState]):
    """One exported `dvc` model on one device; see base.Codec."""

    refresh_period = 0
    qualities = 1

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        threads: int = 1,
        precision: str | None = None,
    ) -> None:
        """Read a model folder; graphs are loaded when they are first needed.

        Args:
            folder: made by dvc_export.py.
            device, threads, precision: see engines.load.load_engine.

        Raises:
            ModelError: a file of the model is missing or damaged.
        """
        file = ModelFile.read(folder, decodes=DECODER_FILES)
        self.name, self.model_hash, self._meta = file.name, file.model_hash, file.meta
        self._graphs = Graphs(file.folder, device=device, threads=threads, precision=precision)
        self._tables = {name: file.tables(name) for name in ("y", "m", "z_intra", "z_inter")}
        self._layers = {
            kind: read_layers(
                file.group(kind),
                doubles=DOUBLES,
                levels=file.meta["levels"],
                z_limit=file.meta["z_limit"],
                where=f"{folder} {kind}",
            )
            for kind in ("intra", "inter")
        }

    def analyse(
        self,
        frame: Planes420,
        state: DvcState | None,
        *,
        quality: int,
        emphasis: NDArray[np.int8] | None = None,
        vectors: I32 | None = None,
    ) -> tuple[Pack, DvcState]:
        """Code one picture. See base.Codec."""
        del vectors
        check_quality(quality, self.qualities)
        if emphasis is not None:
            raise ValueError("emphasis must be None for dvc, which has one quality; leave it out")
        kind = "intra" if state is None else "inter"
        inputs: dict[str, Array] = {"now": _full_size(frame)}
        if state is not None:
            inputs["reference"] = state.reference
        out = self._graphs.run(f"encode_{kind}", inputs)
        symbols = {k: np.rint(out[k][0]).astype(np.int32) for k in ("m", "z", "y") if k in out}

        def pack() -> bytes:
            writer = FrameWriter()
            if "m" in symbols:
                writer.write(symbols["m"], channel_index(symbols["m"].shape), self._tables["m"])
            z = symbols["z"]
            writer.write(z, channel_index(z.shape), self._tables[f"z_{kind}"])
            writer.write(symbols["y"], run_layers(self._layers[kind], z), self._tables["y"])
            return writer.finish()

        return pack, DvcState(out["next_reference"])

    def decompress(
        self, payload: bytes, state: DvcState | None, *, width: int, height: int, quality: int
    ) -> tuple[Picture, DvcState]:
        """Draw one picture. See base.Codec."""
        check_quality(quality, self.qualities)
        kind = "intra" if state is None else "inter"
        symbols = self.parse(payload, inter=state is not None, width=width, height=height)
        inputs: dict[str, Array] = {
            k: s[None].astype(np.float32) for k, s in symbols.items() if k != "z"
        }
        if state is not None:
            inputs["reference"] = state.reference
        reference = self._graphs.run(f"decode_{kind}", inputs)["next_reference"]
        return _picture_of(reference[0], width, height), DvcState(reference)

    def parse(self, payload: bytes, *, inter: bool, width: int, height: int) -> dict[str, I32]:
        """Symbols of a frame by name: m (inter), z, y; needs no network and no state."""
        kind = "inter" if inter else "intra"
        rows, columns = -(-height // ALIGNMENT), -(-width // ALIGNMENT)
        reader = FrameReader(payload, where=f"{self.name} {kind} frame")
        symbols = {}
        if inter:
            shape = (self._meta["motion"], 4 * rows, 4 * columns)
            symbols["m"] = reader.read(channel_index(shape), self._tables["m"])
        shape = (self._meta["hyper"], rows, columns)
        z = reader.read(channel_index(shape), self._tables[f"z_{kind}"])
        limit = self._meta["z_limit"]
        symbols["z"] = np.clip(z, -limit, limit)
        index = run_layers(self._layers[kind], symbols["z"])
        symbols["y"] = reader.read(index, self._tables["y"])
        return symbols

    def close(self) -> None:
        """Let go of the graphs."""
        self._graphs.close()


def _full_size(frame: Planes420) -> F32:
    """Planes to (1, 3, h, w) of 0..1 with chroma doubled, padded to 64 by repeating the edge."""
    height, width = frame.y.shape
    rows, columns = -(-height // ALIGNMENT) * ALIGNMENT, -(-width // ALIGNMENT) * ALIGNMENT
    out = np.empty((1, 3, rows, columns), np.float32)
    for channel, (plane, scale) in enumerate(((frame.y, 1), (frame.u, 2), (frame.v, 2))):
        missing = ((0, rows // scale - plane.shape[0]), (0, columns // scale - plane.shape[1]))
        padded = np.pad(plane, missing, mode="edge")
        out[0, channel] = padded.repeat(scale, 0).repeat(scale, 1)
    out *= 1 / 255
    return out


def _picture_of(picture: F32, width: int, height: int) -> Picture:
    planes: list[U8] = []
    for channel, scale in ((0, 1), (1, 2), (2, 2)):
        rows, columns = -(-height // scale), -(-width // scale)
        plane = picture[channel, : rows * scale, : columns * scale]
        plane = plane.reshape(rows, scale, columns, scale).mean((1, 3))
        planes.append(np.clip(np.rint(plane * 255), 0, 255).astype(np.uint8))
    return Picture(*planes)
