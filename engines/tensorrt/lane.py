"""Run requests on a GPU, one at a time, through one stream; an engine has a lane for each stream.

All memory is reserved when the lane is made: pinned on the host, its counterpart on the GPU, and
an execution context for each profile. A lane serves one thread at a time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import tensorrt as trt

from engines.base import Array, Arrays, TensorSpec
from engines.errors import EngineError, EngineFailed, ModelError
from engines.tensorrt.cuda import U8, Device, Graph, Stream
from engines.tensorrt.library import LOG, lend_scratch, new_context, scratch_bytes
from engines.tensorrt.profiles import Profile, choose, shape_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output, as its users and as the engine see it."""

    spec: TensorSpec
    """With the element type of the ONNX file."""
    dtype: np.dtype[np.generic]
    """Element type inside the engine; TensorRT 8.6 narrows int64."""
    is_input: bool

    def size_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of an array of this shape."""
        return math.prod(shape) * self.dtype.itemsize


class Lane:
    """Stream, contexts and memory for one request at a time."""

    def __init__(
        self,
        engine: trt.ICudaEngine,
        tensors: Sequence[Tensor],
        profiles: Sequence[Profile],
        device: Device,
        where: str,
        *,
        graphs: bool,
    ) -> None:
        """Reserve all that the largest request needs.

        Args:
            engine: deserialised.
            tensors: its inputs and outputs, in the order of their users.
            profiles: in the engine's order.
            device: GPU of the engine; selected on the calling thread.
            where: engine, device and network, for errors.
            graphs: record the work of profiles with fixed shapes and replay it.

        Raises:
            EngineFailed: not enough memory; what was reserved is given back.
            ModelError: an output's length depends on the data.
        """
        self._tensors = tensors
        self._profiles = profiles
        self._device = device
        self._where = where
        self._graphs: dict[int, Graph] = {}
        self._addresses: dict[str, int] = {}
        self._pinned: dict[str, U8] = {}
        self._contexts: list[trt.IExecutionContext] = []
        self._batches: dict[int, int] = {}
        """Batch size that each context is set to."""
        self._scratch = 0
        self._stream = Stream(where)
        try:
            self._reserve(engine)
            if graphs:
                self._record()
        except EngineError:
            self.close()
            raise

    def run(self, arrays: Arrays) -> dict[str, Array]:
        """Run one checked request and wait for it; gives fresh arrays."""
        free = [t.spec.name for t in self._tensors if t.is_input and None in t.spec.shape]
        batch = len(arrays[free[0]]) if free else self._profiles[0].largest
        index = choose(self._profiles, batch, self._where)
        doing = f"running {self._shapes(batch)}"
        self._device.select()
        for tensor in self._tensors:
            if tensor.is_input:
                array = arrays[tensor.spec.name]
                np.copyto(self._host(tensor, array.shape), array, casting="same_kind")
        if index in self._graphs:
            self._graphs[index].launch(doing)
        else:
            self._begin(index, batch, doing)
        self._stream.wait(doing)
        return {
            tensor.spec.name: self._host(tensor, self._shape(tensor, index, batch)).astype(
                tensor.spec.dtype  # a copy too: the next request writes here again
            )
            for tensor in self._tensors
            if not tensor.is_input
        }

    @property
    def recorded(self) -> int:
        """Profiles whose work is replayed as a graph."""
        return len(self._graphs)

    def close(self) -> None:
        """Give everything back; no request may be under way."""
        with suppress(EngineError):  # a GPU that is lost has nothing to give back
            self._device.select()
        for graph in self._graphs.values():
            graph.close()
        self._contexts.clear()
        for address in (self._scratch, *self._addresses.values()):
            self._device.free(address)
        for pinned in self._pinned.values():
            self._device.free_pinned(pinned)
        self._graphs, self._addresses, self._pinned, self._scratch = {}, {}, {}, 0
        self._stream.close()

    def _reserve(self, engine: trt.ICudaEngine) -> None:
        shapes = self._shapes(self._profiles[-1].largest)
        size = scratch_bytes(engine)
        self._scratch = self._device.allocate(size, f"scratch of {shapes}")
        for index, profile in enumerate(self._profiles):
            self._contexts.append(self._make_context(engine, index, size))
            self._set_shapes(index, profile.largest)
        self._stream.wait("choosing profiles")
        for tensor in self._tensors:
            name, last = tensor.spec.name, len(self._profiles) - 1
            size = tensor.size_bytes(self._shape(tensor, last, self._profiles[last].largest))
            self._addresses[name] = self._device.allocate(size, f"{tensor.spec} of {shapes}")
            self._pinned[name] = self._device.allocate_pinned(size, f"{tensor.spec} of {shapes}")
            for context in self._contexts:
                context.set_tensor_address(name, self._addresses[name])

    def _make_context(
        self, engine: trt.ICudaEngine, index: int, size_bytes: int
    ) -> trt.IExecutionContext:
        """Make a context of one profile; all contexts of a lane share its scratch memory."""
        context = new_context(engine)
        free = any(None in tensor.spec.shape for tensor in self._tensors if tensor.is_input)
        if context is not None:
            lend_scratch(context, self._scratch, size_bytes)
        if context is None or (
            free and not context.set_optimization_profile_async(index, self._stream.handle)
        ):
            left, total = (n / 1e9 for n in self._device.memory_bytes())
            raise EngineFailed(
                f"{self._where}: no context for {self._shapes(self._profiles[index].largest)}: "
                f"{LOG.take_errors()}; {left:.1f} GB of {total:.1f} GB are free: use a smaller "
                "batch or fewer streams, or end what else uses the GPU"
            )
        return context

    def _record(self) -> None:
        """Record each profile of fixed shapes; one that can't be recorded is run call by call."""
        for index, profile in enumerate(self._profiles):
            if not profile.fixed:
                continue
            doing = f"recording {self._shapes(profile.largest)}"
            for pinned in self._pinned.values():
                pinned[:] = 0
            self._begin(index, profile.largest, doing)  # what the library puts off until first use
            self._stream.wait(doing)
            try:
                with self._stream.captured(doing) as graph:
                    self._begin(index, profile.largest, doing)
            except EngineFailed as error:
                _log.info("%s; its calls are made one by one", error)
            else:
                self._graphs[index] = graph

    def _begin(self, index: int, batch: int, doing: str) -> None:
        """Begin to copy in, run and copy out; the caller waits."""
        if batch != self._batches[index]:  # unchanged shapes must not make the library work again
            self._set_shapes(index, batch)
        for tensor in self._tensors:
            if tensor.is_input:
                size = tensor.size_bytes(shape_of(tensor.spec, batch))
                name = tensor.spec.name
                self._stream.upload(self._pinned[name][:size], self._addresses[name])
        if not self._contexts[index].execute_async_v3(self._stream.handle):
            raise EngineFailed(
                f"{self._where}: {doing}: {LOG.take_errors()}; load the engine again"
            )
        for tensor in self._tensors:
            if not tensor.is_input:
                size = tensor.size_bytes(self._shape(tensor, index, batch))
                name = tensor.spec.name
                self._stream.download(self._addresses[name], self._pinned[name][:size])

    def _set_shapes(self, index: int, batch: int) -> None:
        for tensor in self._tensors:
            if tensor.is_input and None in tensor.spec.shape:
                shape = shape_of(tensor.spec, batch)
                if not self._contexts[index].set_input_shape(tensor.spec.name, shape):
                    raise EngineFailed(
                        f"{self._where}: {tensor.spec.name} can't be {shape}: "
                        f"{LOG.take_errors()}; build the engine again"
                    )
        self._batches[index] = batch

    def _shape(self, tensor: Tensor, index: int, batch: int) -> tuple[int, ...]:
        """Lengths of a tensor for a request; those of outputs follow from the inputs set."""
        if tensor.is_input:
            return shape_of(tensor.spec, batch)
        shape = tuple(self._contexts[index].get_tensor_shape(tensor.spec.name))
        if min(shape, default=0) < 0:
            raise ModelError(
                f"{self._where}: length of {tensor.spec} must follow from the inputs' shapes, got "
                f"{shape}; export the network up to its raw boxes"
            )
        return shape

    def _host(self, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        pinned = self._pinned[tensor.spec.name][: tensor.size_bytes(shape)]
        return pinned.view(tensor.dtype).reshape(shape)

    def _shapes(self, batch: int) -> str:
        return ", ".join(
            f"{tensor.spec.name} {'x'.join(map(str, shape_of(tensor.spec, batch)))}"
            for tensor in self._tensors
            if tensor.is_input
        )
