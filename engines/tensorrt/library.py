"""Hold the library itself: its release, its log, and the one runtime that loads engines.

The home of TensorRT's import beside the files that build and run. Knows no network.
"""

from __future__ import annotations

import logging
from collections import deque

import tensorrt as trt

from engines.tensorrt.release import Release

_log = logging.getLogger(__name__)

RELEASE = Release.parse(trt.__version__)
_KEPT = 4


class Log(trt.ILogger):  # type: ignore[misc]
    """Pass the library's messages on, and keep the last errors: calls that fail give no reason."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self._warnings: deque[str] = deque(maxlen=_KEPT)

    def log(self, severity: trt.ILogger.Severity, text: str) -> None:
        """Called by the library, on any thread."""
        kinds = trt.ILogger.Severity
        if severity in (kinds.INTERNAL_ERROR, kinds.ERROR):
            self._errors.append(text.strip())
        elif severity == kinds.WARNING:
            self._warnings.append(text.strip())
        else:
            _log.debug("%s", text)
            return
        _log.info("%s", text)  # what is an error to the library may be none to us; ours are raised

    def take_errors(self) -> str:
        """What went wrong since the last call; some releases only warn of it."""
        said = list(self._errors) or list(self._warnings)
        self._errors.clear()
        self._warnings.clear()
        return " / ".join(said) or "the library gave no reason"


LOG = Log()
"""The library wants one log for all its parts in a process."""


def new_context(engine: trt.ICudaEngine) -> trt.IExecutionContext | None:
    """Make a context without scratch memory, or None if the library fails."""
    strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(strategies.USER_MANAGED)


def scratch_bytes(engine: trt.ICudaEngine) -> int:
    """Scratch memory that a context of any profile needs."""
    newer = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if newer is None else newer)


def lend_scratch(context: trt.IExecutionContext, address: int, size_bytes: int) -> None:
    """Let a context use this memory of the GPU."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size_bytes)
    else:
        context.device_memory = address
