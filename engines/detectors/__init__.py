"""Detectors: from pictures to boxes, on any engine."""

__all__: list[str] = []
