"""Write a stream with one engine and read it with others: symbols that differ, PSNR that drifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from engines.base import Array
from engines.codec.base import Picture
from engines.codec.export import Decode, Encode, Refresh
from engines.codec.metrics import psnr_db
from engines.codec.model import ModelFile
from engines.codec.restore import restore
from engines.codec.rt import CONFIGS, RtCodec
from engines.codec.runtime import RtRuntime, RtState
from engines.codec.schedule import quality_offset

KINDS = ("intra", "inter")
OUTPUTS = {
    "encode": ("q", "z", "decoded", "next_memory"),
    "decode": ("decoded", "next_memory"),
    "refresh": ("next_memory",),
}
STAND_IN = "as if bf16"


def computes_bfloat16() -> bool:
    """True for a processor that has bfloat16; on others OpenVINO computes in float32."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


@dataclass(frozen=True)
class Machine:
    """One way to run the networks."""

    device: str
    threads: int = 1
    precision: str | None = None

    def load(self, model: Path) -> RtRuntime:
        """The codec as it runs here."""
        if self.device == "torch":
            return RtRuntime(model, graphs=TorchGraphs(model, self.threads, self.precision))
        return RtRuntime(model, device=self.device, threads=self.threads, precision=self.precision)

    @property
    def exact(self) -> bool:
        """It computes in float32."""
        return self.precision in (None, "f32")

    def __str__(self) -> str:
        return f"{self.device} {self.precision or 'f32'}, {self.threads} threads"


class Shortened(TorchFunctionMode):  # type: ignore[misc]
    """Convolutions read and give bfloat16, and sum in float32, as those of a processor that has it.

    On a Xeon with AMX OpenVINO drifted less than this does by half and more, with the same weights.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is not torch.conv2d:
            return func(*args, **(kwargs or {}))
        image, *rest = args
        return func(image.bfloat16().float(), *rest, **(kwargs or {})).bfloat16().float()


class TorchGraphs:
    """The networks of a model in torch, in float32 or as if in bfloat16, on any processor."""

    def __init__(self, model: Path, threads: int, precision: str | None) -> None:
        torch.set_num_threads(threads)
        codec = RtCodec(CONFIGS[ModelFile.read(model, decodes=()).name])
        restore(codec, model, densities=False)
        codec.eval()
        self._short = precision == STAND_IN
        if self._short:
            for parameter in codec.parameters():
                parameter.data = parameter.data.bfloat16().float()
        encode, decode = Encode(codec), Decode(codec)
        self._graphs = {f"encode_{kind}": encode for kind in KINDS}
        self._graphs |= {f"decode_{kind}": decode for kind in KINDS}
        self._graphs["refresh"] = Refresh(codec)

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name."""
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()]
        with torch.no_grad(), Shortened() if self._short else nullcontext():
            found = self._graphs[name](*tensors)
        outputs = found if isinstance(found, tuple) else (found,)
        return {
            key: tensor.float().numpy()
            for key, tensor in zip(OUTPUTS[name.split("_")[0]], outputs, strict=True)
        }

    def close(self) -> None:
        """Nothing is held."""


SHORT = Machine("openvino:cpu", 1, "bf16") if computes_bfloat16() else Machine("torch", 1, STAND_IN)
WRITERS = (Machine("onnxruntime:cpu", 1, "f32"), SHORT)
READERS = (
    Machine("onnxruntime:cpu", 1, "f32"),
    Machine("onnxruntime:cpu", 2, "f32"),
    Machine("openvino:cpu", 1, "f32"),
    Machine("openvino:cpu", 2, "f32"),
    Machine("torch", 2, "f32"),
    SHORT,
)


@dataclass(frozen=True)
class Read:
    """What a machine made of a stream."""

    psnrs_db: list[float]
    symbols: list[bytes]


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
