"""Write a stream with one engine and read it with others: symbols that differ, PSNR that drifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.codec.base import Picture
from engines.codec.metrics import psnr_db
from engines.codec.runtime import RtRuntime, RtState
from engines.codec.schedule import quality_offset


@dataclass(frozen=True)
class Machine:
    """One way to run the networks."""

    device: str
    threads: int = 1
    precision: str | None = None

    def load(self, model: Path) -> RtRuntime:
        """The codec as it runs here."""
        return RtRuntime(model, device=self.device, threads=self.threads, precision=self.precision)

    @property
    def exact(self) -> bool:
        """It computes in float32."""
        return self.precision in (None, "f32")

    def __str__(self) -> str:
        return f"{self.device} {self.precision or 'f32'}, {self.threads} threads"


WRITERS = (Machine("onnxruntime:cpu", 1, "f32"), Machine("openvino:cpu", 1, "bf16"))
READERS = (
    Machine("onnxruntime:cpu", 1, "f32"),
    Machine("onnxruntime:cpu", 2, "f32"),
    Machine("openvino:cpu", 1, "f32"),
    Machine("openvino:cpu", 2, "f32"),
    Machine("openvino:cpu", 1, "bf16"),
)


@dataclass(frozen=True)
class Read:
    """What a machine made of a stream."""

    psnrs_db: list[float]
    symbols: list[bytes]


def computes_bfloat16() -> bool:
    """True for a processor that has bfloat16."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def write(codec: RtRuntime, pictures: Sequence[Picture], quality: int) -> list[tuple[bytes, int]]:
    """Payload and quality of each picture, of one intra period."""
    state: RtState | None = None
    coded = []
    for number, picture in enumerate(pictures):
        of = min(quality + quality_offset(number), codec.qualities - 1)
        payload, state = codec.compress(picture, state, quality=of)
        coded.append((payload, of))
    return coded


def read(codec: RtRuntime, coded: Sequence[tuple[bytes, int]], pictures: Sequence[Picture]) -> Read:
    """Decode a stream; luma PSNR against its source."""
    height, width = pictures[0].y.shape
    state: RtState | None = None
    psnrs, symbols = [], []
    for (payload, quality), truth in zip(coded, pictures, strict=True):
        of = codec.parse(payload, state, width=width, height=height, quality=quality)
        symbols.append(of.q.tobytes() + of.z.tobytes() + of.vectors.tobytes())
        picture, state = codec.decompress(
            payload, state, width=width, height=height, quality=quality
        )
        psnrs.append(psnr_db(picture.y, truth.y))
    return Read(psnrs, symbols)


def compare(model: Path, pictures: Sequence[Picture], quality: int) -> list[dict[str, object]]:
    """One row for each writer and reader; the oracle is the machine that wrote."""
    rows = []
    for writer in WRITERS:
        codec = writer.load(model)
        coded = write(codec, pictures, quality)
        oracle = read(codec, coded, pictures)
        codec.close()
        for machine in READERS:
            codec = machine.load(model)
            seen = read(codec, coded, pictures)
            codec.close()
            drift = np.subtract(oracle.psnrs_db, seen.psnrs_db)
            rows.append(
                {
                    "writer": str(writer),
                    "reader": str(machine),
                    "exact": writer.exact and machine.exact,
                    "frames_of_other_symbols": sum(
                        a != b for a, b in zip(oracle.symbols, seen.symbols, strict=True)
                    ),
                    "drift_db": round(abs(float(drift.mean())), 4),
                    "worst_frame_db": round(float(np.abs(drift).max()), 4),
                }
            )
    return rows
