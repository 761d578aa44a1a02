"""Turn a trained `rt` checkpoint into the graphs and integer tables of a model; offline.

    python -m engines.codec.export --run RUN --size nano --data SHARDS --out MODEL

Weights are stored as float16 and cast where they are used: half the size, and every engine starts
from the same numbers.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engines.codec.checkpoint import load_average
from engines.codec.entropy import TOTAL
from engines.codec.fit import Statistics, fit
from engines.codec.layers import FactorizedDensity
from engines.codec.model import ENTROPY_FILE
from engines.codec.rt import (
    CONFIGS,
    INTER,
    INTRA,
    QUALITIES,
    Z_LIMIT,
    RtCodec,
    scale_of,
)
from engines.codec.scales import SCALE_LEVELS, Z_CONTEXTS
from engines.codec.share import share_weights

OPSET = 17
TAIL = 2.0**-12
"""Probability of a symbol beyond its table, which is then written as an escape."""
PRIOR = 200.0
"""Symbols seen that weigh as much as the distribution that training assumed."""
OF_A_KIND = ("index_bias", "odd_bias")
"""Weights that intra frames have others of; all else serves both kinds."""
FLOAT16_FROM = 256
"""Smaller tensors (biases) stay float32."""


class Encode(nn.Module):  # type: ignore[misc]
    """blocks of 0..255 (and what is remembered) to q, z, the decoded blocks and the next memory."""

    def __init__(self, codec: RtCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, blocks: Tensor, quality: Tensor, *last: Tensor) -> tuple[Tensor, ...]:
        """See FrameCodec.encode."""
        context = context_of(self.codec, quality, *last)
        q, z, features = self.codec.frame.encode(blocks * (1 / 128) - 1, context, quality)
        return q, z, drawn(self.codec, features), features


class Decode(nn.Module):  # type: ignore[misc]
    """q and z (and what is remembered) to the decoded blocks and the next memory."""

    def __init__(self, codec: RtCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, q: Tensor, z: Tensor, quality: Tensor, *last: Tensor) -> tuple[Tensor, ...]:
        """See FrameCodec.decode."""
        context = context_of(self.codec, quality, *last)
        features = self.codec.frame.decode(q, z, context, quality)
        return drawn(self.codec, features), features


class Refresh(nn.Module):  # type: ignore[misc]
    """memory to the memory that the decoded picture alone gives."""

    def __init__(self, codec: RtCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, memory: Tensor) -> Tensor:
        """See RtCodec.refresh; without gradients."""
        return self.codec.embed(drawn(self.codec, memory) * (1 / 128) - 1)


def context_of(
    codec: RtCodec, quality: Tensor, memory: Tensor | None = None, change: Tensor | None = None
) -> Tensor | None:
    """What is known of an inter frame from its memory and the change, in 8-bit steps, by motion."""
    if memory is None or change is None:
        return None
    return codec.context_of(memory, change * (1 / 128), quality)


def drawn(codec: RtCodec, features: Tensor) -> Tensor:
    """Blocks of whole numbers 0..255."""
    return torch.round((codec.head(features) + 1) * 128).clamp(0, 255)


def export_graphs(codec: RtCodec, folder: Path) -> None:
    """Write the five graphs of a codec, each with free height and width."""
    codec = codec.float().eval().cpu()
    config = codec.config
    quality = torch.zeros(1, 8, 12, dtype=torch.int64)
    blocks, memory = torch.zeros(1, 96, 16, 24), torch.zeros(1, config.channels, 16, 24)
    q, z = torch.zeros(1, config.latents, 8, 12), torch.zeros(1, config.hyper, 2, 3)
    for kind, last in (("intra", {}), ("inter", {"memory": memory, "change": blocks})):
        seen = {"blocks": blocks, "quality": quality, **last}
        read = {"q": q, "z": z, "quality": quality, **last}
        known = ("decoded", "next_memory")
        export_graph(Encode(codec), seen, ("q", "z", *known), folder / f"encode_{kind}.onnx")
        export_graph(Decode(codec), read, known, folder / f"decode_{kind}.onnx")
    export_graph(Refresh(codec), {"memory": memory}, ("next_memory",), folder / "refresh.onnx")


def export_graph(
    graph: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], path: Path
) -> None:
    """Write one graph in opset 17 with free height and width and weights in float16."""
    sides = {name: (1, 2) if name == "quality" else (2, 3) for name in (*inputs, *outputs)}
    axes = {name: {h: f"{name}_h", w: f"{name}_w"} for name, (h, w) in sides.items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter that can write opset 17 says it is old
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    _store_as_float16(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _store_as_float16(model: onnx.ModelProto) -> None:
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < FLOAT16_FROM:
            continue
        small = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_f16")
        casts.append(helper.make_node("Cast", [small.name], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(small)
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def round_to_float16(codec: nn.Module) -> None:
    """Give a codec the weights that its graphs will hold, so that both compute the same."""
    for name, parameter in codec.named_parameters():
        if parameter.numel() >= FLOAT16_FROM and "h_s_scales" not in name:  # those are integers
            parameter.data = parameter.data.half().float()


def export_integers(codec: RtCodec, folder: Path, seen: Statistics | None = None) -> None:
    """Write entropy.npz: tables of y and z, and both integer paths.

    Args:
        codec: trained.
        folder: of the model.
        seen: symbols that it coded; without them tables are those that training assumes.
    """
    config = codec.config
    meta = {
        "name": config.name,
        "qualities": QUALITIES,
        "levels": SCALE_LEVELS,
        "z_limit": Z_LIMIT,
        "latents": config.latents,
        "hyper": config.hyper,
    }
    arrays: dict[str, NDArray[np.generic]] = {
        "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)
    }
    levels = range(SCALE_LEVELS)
    arrays |= packed_tables(
        "y", [laplace_counts(n, None if seen is None else seen.q[n]) for n in levels]
    )
    for kind, name, contexts in ((INTRA, "intra", 1), (INTER, "inter", Z_CONTEXTS)):
        shares = density_shares(codec.frame.density[kind], config.hyper, Z_LIMIT)
        shares = np.repeat(shares, contexts, 0)
        if seen is not None:
            shares = PRIOR * shares + seen.z[kind].reshape(shares.shape)
        arrays |= packed_tables(f"z_{name}", [whole_counts(np.append(row, 0.0)) for row in shares])
        for weight, tensor in codec.frame.h_s_scales.integers(kind).items():
            group = name if weight in OF_A_KIND else "scales"
            arrays[f"{group}/{weight}"] = tensor.numpy()
    np.savez_compressed(folder / ENTROPY_FILE, **arrays)  # type: ignore[arg-type]


def packed_tables(name: str, tables: list[NDArray[np.uint32]]) -> dict[str, NDArray[np.generic]]:
    """Tables as the two arrays that a model file holds."""
    start = np.concatenate(([0], np.cumsum([len(t) for t in tables]))).astype(np.int32)
    return {f"{name}/counts": np.concatenate(tables), f"{name}/start": start}


def laplace_counts(level: int, seen: NDArray[np.int64] | None = None) -> NDArray[np.uint32]:
    """Table of one scale index: the Laplace distribution, as far as nothing was seen of it.

    Args:
        level: the scale index.
        seen: how often each symbol was coded with it, from the lowest to the highest one.
    """
    if level == 0:
        return np.empty(0, np.uint32)  # see SymbolTables: exceptions only
    scale = float(scale_of(torch.tensor(float(level))))
    limit = max(1, int(np.ceil(-scale * np.log(TAIL) - 0.5)))
    edges = np.arange(-limit, limit + 2) - 0.5
    tail = 0.5 * np.exp(-np.abs(edges) / scale)
    cdf = np.where(edges <= 0, tail, 1 - tail)
    shares = np.append(np.diff(cdf), 2 * tail[0])
    if seen is not None:
        both = seen + seen[::-1]  # no sign is likelier
        middle = len(both) // 2
        inside = both[middle - limit : middle + limit + 1]
        shares = 2 * PRIOR * shares + np.append(inside, both.sum() - inside.sum())
    return whole_counts(shares)


def density_shares(density: FactorizedDensity, channels: int, limit: int) -> NDArray[np.float64]:
    """Probabilities of -limit..limit in each channel, what is beyond them added to the last."""
    edges = torch.arange(-limit, limit + 2) - 0.5
    with torch.no_grad():
        cdf = torch.sigmoid(density.logits(edges.double().float().expand(channels, 1, -1)))
    inner: NDArray[np.float64] = np.diff(cdf[:, 0].double().numpy())
    inner[:, 0] += cdf[:, 0, 0].numpy()  # the encoder clamps z
    inner[:, -1] += 1 - cdf[:, 0, -1].numpy()
    return inner


def density_counts(
    density: FactorizedDensity, channels: int, limit: int
) -> list[NDArray[np.uint32]]:
    """Tables of the learned distribution of each channel, clamped to -limit..limit."""
    return [whole_counts(np.append(p, 0.0)) for p in density_shares(density, channels, limit)]


def whole_counts(probabilities: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Counts of at least 1 that sum to 2^24, in proportion to probabilities."""
    probabilities = np.maximum(probabilities, 0)
    free = TOTAL - len(probabilities)
    counts = np.floor(probabilities / probabilities.sum() * free).astype(np.int64) + 1
    counts[int(np.argmax(counts))] += TOTAL - counts.sum()
    return np.asarray(counts, np.uint32)


def export_model(codec: RtCodec, folder: Path, seen: Statistics | None = None) -> None:
    """Write a whole model folder; see export_integers."""
    folder.mkdir(parents=True, exist_ok=True)
    round_to_float16(codec)
    export_integers(codec, folder, seen)
    export_graphs(codec, folder)
    share_weights(folder)


def main() -> None:
    """Export the averaged weights of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--size", choices=("nano", "small"), default="nano")
    parser.add_argument("--data", type=Path, required=True, help="shards that integers are fit to")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    codec = RtCodec(CONFIGS[f"rt-{options.size}"])
    step = load_average(options.run, codec)
    round_to_float16(codec)  # so that the fit sees what the graphs will code
    export_model(codec, options.out, fit(codec, options.data))
    size = sum(f.stat().st_size for f in options.out.iterdir())
    print(f"{options.out}: step {step}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
