"""Write and read the whole state of a training, in parts that each stay below 16 MiB; offline.

Weights are float32; the moving average is stored as its difference to them and the second moments
of the optimiser as they are, both in bfloat16; first moments are left out, ten steps bring them
back. A checkpoint is whole when its last part is: that one says how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

PART_BYTES = 15 << 20
KEPT = 2


class Ema:
    """Moving average of the weights, which is what is evaluated and exported."""

    DECAY = 0.999

    def __init__(self, codec: nn.Module) -> None:
        self.average = {k: p.detach().clone() for k, p in codec.named_parameters()}

    def update(self, codec: nn.Module, step: int) -> None:
        """Move towards the codec's weights; faster in the first steps."""
        rate = 1 - min(self.DECAY, (step + 1) / (step + 10))
        current = [p.detach() for _, p in codec.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), current, rate)

    @contextmanager
    def applied_to(self, codec: nn.Module) -> Iterator[None]:
        """Let the codec have the averaged weights inside the block."""
        own = {k: p.detach().clone() for k, p in codec.named_parameters()}
        _assign(codec, self.average)
        try:
            yield
        finally:
            _assign(codec, own)


class Resumable(Protocol):
    """What a checkpoint holds of a trainer."""

    codec: nn.Module
    optimiser: torch.optim.Optimizer
    ema: Ema
    trained_s: float
    step: int


def save_checkpoint(folder: Path, trainer: Resumable) -> None:
    """Write step-<n>.<part>.pt and remove all but the newest checkpoints."""
    name = f"step-{trainer.step:07d}"
    parts = _parts(_tensors(trainer))
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        meta = {"parts": len(parts), "step": trainer.step, "trained_s": trainer.trained_s}
        path = folder / f"{name}.{number if not last else 'last'}.pt"
        temporary = path.with_suffix(".writing")
        torch.save({"meta": meta if last else {}, "tensors": part}, temporary)
        temporary.replace(path)
    for old in sorted(folder.glob("step-*.last.pt"))[:-KEPT]:
        stem = old.name.removesuffix(".last.pt")
        old.unlink()
        for part_file in folder.glob(f"{stem}.*.pt"):
            part_file.unlink()


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """All tensors and numbers of the newest whole checkpoint of a folder, if there is one."""
    whole = sorted(folder.glob("step-*.last.pt"))
    if not whole:
        return None
    last = torch.load(whole[-1], map_location="cpu", weights_only=True)
    tensors = dict(last["tensors"])
    stem = whole[-1].name.removesuffix(".last.pt")
    for number in range(last["meta"]["parts"] - 1):
        part = torch.load(folder / f"{stem}.{number}.pt", map_location="cpu", weights_only=True)
        tensors.update(part["tensors"])
    return tensors, last["meta"]


def load_checkpoint(folder: Path, trainer: Resumable) -> bool:
    """Restore the newest checkpoint into a trainer; False if there is none."""
    found = read_tensors(folder)
    if found is None:
        return False
    tensors, meta = found
    trainer.step, trainer.trained_s = int(meta["step"]), float(meta["trained_s"])
    for name, parameter in trainer.codec.named_parameters():
        weight = tensors[f"weight/{name}"].to(parameter.device)
        parameter.data.copy_(weight)
        trainer.ema.average[name].copy_(weight + tensors[f"ema/{name}"].to(weight).float())
        if f"second/{name}" in tensors:
            trainer.optimiser.state[parameter] = {
                "step": torch.tensor(float(trainer.step), device=_step_device(trainer, parameter)),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": tensors[f"second/{name}"].to(weight).float(),
            }
    return True


def load_average(folder: Path, codec: nn.Module) -> int:
    """Give a codec the averaged weights of the newest checkpoint; returns its step."""
    found = read_tensors(folder)
    if found is None:
        raise SystemExit(
            f"{folder}: no checkpoint step-*.last.pt; train one with engines.codec.train"
        )
    tensors, meta = found
    names = [name for name, _ in codec.named_parameters()]
    _assign(codec, {n: tensors[f"weight/{n}"] + tensors[f"ema/{n}"].float() for n in names})
    return int(meta["step"])


def _tensors(trainer: Resumable) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in trainer.codec.named_parameters():
        weight = parameter.detach().float().cpu().contiguous()
        tensors[f"weight/{name}"] = weight
        tensors[f"ema/{name}"] = (trainer.ema.average[name].cpu() - weight).bfloat16().contiguous()
        state = trainer.optimiser.state.get(parameter)
        if state:
            tensors[f"second/{name}"] = state["exp_avg_sq"].bfloat16().cpu().contiguous()
    return tensors


def _parts(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        bytes_ = tensor.numel() * tensor.element_size() + 1024  # the archive's own record
        if size + bytes_ > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += bytes_
    return parts


def _assign(codec: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in codec.named_parameters():
        parameter.data.copy_(weights[name])


def _step_device(trainer: Resumable, parameter: Tensor) -> torch.device:
    fused = bool(trainer.optimiser.defaults.get("fused"))
    return parameter.device if fused else torch.device("cpu")
