"""Turn a .lvc recording back into frames; runs in the decode process and in `streamer codec`.

Times are those that were recorded: media time, and the wall clock of each capture. Used by one
thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.codec.base import Codec, Picture
from engines.codec.errors import BitstreamError
from engines.codec.load import load_codec
from engines.codec.player import Player
from engines.codec.reader import LvcReader
from engines.errors import EngineError, EngineMismatch, ModelError
from engines.zoo import find_codec
from streamer.errors import SourceError
from streamer.planes import Planes
from streamer.sources.base import FrameTimes, SourceInfo
from streamer.sources.options import DecodeStatistics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """See base.SourceFrame."""

    picture: Picture
    times: FrameTimes

    @property
    def width(self) -> int:
        """Luma samples in a row."""
        return int(self.picture.y.shape[1])

    @property
    def height(self) -> int:
        """Luma rows."""
        return int(self.picture.y.shape[0])

    def write_to(self, planes: Planes) -> None:
        """Copy the picture."""
        planes.y[:], planes.u[:], planes.v[:] = self.picture.y, self.picture.u, self.picture.v


class LvcSource:
    """One .lvc file. Damage costs the frames up to the next intra frame, and is counted."""

    def __init__(self, path: Path, *, model: str | None = None, device: str = "cpu") -> None:
        """Nothing is opened yet.

        Args:
            path: of the file.
            model: folder of the codec; None for the shipped one of the name in the header.
            device: where its network runs.
        """
        self._path, self._model, self._device = path, model, device
        self._reader: LvcReader | None = None
        self._codec: Codec[Any] | None = None
        self._closed = threading.Event()
        self.statistics = DecodeStatistics()

    def open(self) -> SourceInfo:
        """Read the header, and load the codec that it names.

        Raises:
            SourceError: "corrupt": it is no such file; "codec": its codec is not installed, or
                another one than it was written with.
        """
        self.close()
        self._closed.clear()
        self.statistics = DecodeStatistics()
        try:
            reader = self._reader = LvcReader(self._path)
        except BitstreamError as error:
            raise SourceError(str(error), reason="corrupt", permanent=True) from error
        except OSError as error:
            raise SourceError(
                f"{self._path}: {error.strerror}; check the path", reason="io", permanent=True
            ) from error
        header = reader.header
        try:
            folder = find_codec(self._model or header.codec)
            codec: Codec[Any] = load_codec(
                folder, device=self._device, refresh_period=header.refresh_period
            )
            self._codec = codec
            self._player = Player(codec, reader)
        except (ModelError, EngineMismatch, EngineError) as error:
            written = f"{header.codec} {header.model_hash.hex()[:12]}"
            raise SourceError(
                f"{self._path}: written with {written}: {error}",
                reason="codec",
                permanent=True,
            ) from error
        return SourceInfo(
            width=header.width,
            height=header.height,
            fps_declared=None,
            codec=header.codec,
            live=False,
            matrix="bt709" if header.matrix == 1 else "bt601",
        )

    def frames(self) -> Iterator[DecodedFrame]:
        """Yield the frames that can be decoded."""
        assert self._reader is not None
        time_base = self._reader.header.time_base
        for played in self._player.pictures():
            if self._closed.is_set():
                return
            self.statistics.packets += 1
            self.statistics.decoded += 1
            self.statistics.corrupt = len(self._reader.damages) + len(self._player.refused)
            times = FrameTimes(played.pts, time_base, played.capture_ns, time.monotonic_ns(), False)
            yield DecodedFrame(played.picture, times)
        self.statistics.corrupt = len(self._reader.damages) + len(self._player.refused)

    def close(self) -> None:
        """Let go of file and network."""
        self._closed.set()
        for part in (self._reader, self._codec):
            if part is not None:
                part.close()
        self._reader = self._codec = None
