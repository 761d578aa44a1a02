"""Show figures while a run goes on: one line that rewrites itself, or one line a second."""

from __future__ import annotations

import logging
from typing import TextIO

from streamer.summary import Summary


class StatusLine:
    """Writes to a terminal or a log; log lines in between push it down, not apart."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        if self._terminal:
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler):
                    handler.setFormatter(_Clearing(handler.formatter))

    def show(self, summary: Summary) -> None:
        """Show the figures as they are now."""
        text = one_line(summary)
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class _Clearing(logging.Formatter):
    """Clears the status line before a log line is written over it."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return "\r\x1b[K" + self._inner.format(record)


def one_line(summary: Summary) -> str:
    """The figures that matter, short."""
    p99 = summary.latency_ms.get("p99")
    parts = [
        f"{summary.frames_out} of {summary.frames_in} frames",
        f"{summary.fps:.1f} fps",
        f"latency p50 {_ms(summary.latency_ms.get('p50'))} p99 {_ms(p99)}",
        f"{summary.events} events",
    ]
    parts += [f"{cause} {count}" for cause, count in summary.frames_dropped.items()]
    if summary.restarts:
        parts.append(f"{summary.restarts} restarts")
    return "  ".join(parts)


def describe(summary: Summary) -> str:
    """The figures of each camera, and of all where there are several."""
    rows = [(name, one) for name, one in summary.cameras.items()]
    if len(rows) > 1:
        rows.append(("all", summary))
    lines = [f"{'camera':16} {'in':>7} {'out':>7} {'fps':>7} {'p50 ms':>8} {'p99 ms':>8}  events"]
    for name, one in rows:
        p50, p99 = (one.latency_ms.get(p) for p in ("p50", "p99"))
        lines.append(
            f"{name:16} {one.frames_in:7} {one.frames_out:7} {one.fps:7.1f} "
            f"{_number(p50):>8} {_number(p99):>8} {one.events:7}"
        )
    dropped = ", ".join(f"{cause} {count}" for cause, count in summary.frames_dropped.items())
    lines.append(f"dropped: {dropped or 'none'}   restarts: {summary.restarts}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _ms(value: float | None) -> str:
    return f"{_number(value)} ms"
