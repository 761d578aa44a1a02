"""Appearance: from a person's box to a vector that tells who it is, on any engine."""

__all__: list[str] = []
