"""Errors of the codecs beside those of all engines; imports nothing else."""

from __future__ import annotations

from engines.errors import EngineError


class BitstreamError(EngineError, ValueError):
    """Bytes are no frame or file of this codec, or are damaged; the text says where and what."""
