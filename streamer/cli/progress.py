"""Draw how far a long step is: a line that rewrites itself, or one a tenth in a log."""

from __future__ import annotations

from typing import TextIO

_WIDTH = 30


class Bar:
    """One bar on one stream."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._terminal = stream.isatty()
        self._shown = ""

    def show(self, done: int, whole: int | None) -> None:
        """Show bytes that are here of all, where their number is known."""
        share = done / whole if whole else 0.0
        size = f"{whole / 1e6:.1f}" if whole else "?"
        self._draw(f"{done / 1e6:.1f} of {size} MB", share)

    def phase(self, what: str, share: float) -> None:
        """Show what is being done and how much of it."""
        self._draw(what, share)

    def close(self) -> None:
        """Leave the line."""
        if self._terminal and self._shown:
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self, text: str, share: float) -> None:
        full = round(min(max(share, 0.0), 1.0) * _WIDTH)
        if self._terminal:
            line = f"{self._name} [{'#' * full}{'.' * (_WIDTH - full)}] {share:4.0%} {text}"
            self._stream.write(f"\r\x1b[K{line}")
        else:
            line = f"{self._name} {share * 10 // 1 / 10:.0%}"
            if line == self._shown:
                return
            self._stream.write(f"{line} {text}\n")
        self._shown = line
        self._stream.flush()
