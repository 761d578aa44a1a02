"""Turn pictures into a .lvc file and back with any codec of base.py; runtime.

Knows no pipeline and no clock: times are given with each picture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from engines.codec.base import I32, Codec, Picture, Planes420, StateT
from engines.codec.errors import BitstreamError
from engines.codec.rate import ConstantQuality, RateControl
from engines.codec.reader import LvcReader
from engines.codec.records import Header, RecordType, check_size
from engines.codec.schedule import quality_offset
from engines.codec.writer import LvcWriter
from engines.errors import EngineMismatch

logger = logging.getLogger(__name__)

FIRST_FRAME_S = 0.04
"""How long the first frame of a file counts for the rate; the others say it by their times."""


class Recorder(Generic[StateT]):
    """Compresses pictures into a writer, with an intra frame at every period of its header, and
    where the pictures change their size.

    While the network looks at one frame, one thread packs and writes the symbols of the frame
    before, and one finds the motion of the next; so a file has all frames only after `flush`.
    """

    def __init__(
        self, codec: Codec[StateT], writer: LvcWriter, *, quality: int | RateControl
    ) -> None:
        """Begin at the first frame of a file.

        Args:
            codec: must be the one that the header of the writer names.
            writer: stays the caller's to close, after `flush`.
            quality: to which schedule.quality_offset adds for each frame, or what chooses it.
        """
        check_codec(codec, writer.header)
        self._rate = ConstantQuality(quality) if isinstance(quality, int) else quality
        self._codec, self._writer = codec, writer
        self._state: StateT | None = None
        self._position = 0
        self._size = (0, 0)
        self._at_rest = False
        self._last_pts: int | None = None
        self._threads = ThreadPoolExecutor(2, "codec")
        self._packing: Future[None] | None = None
        self._ahead: tuple[Planes420, Future[I32 | None]] | None = None
        """The next picture, and its motion."""

    def add(
        self,
        picture: Planes420,
        *,
        pts: int,
        capture_ns: int,
        emphasis: NDArray[np.int8] | None = None,
        following: Planes420 | None = None,
    ) -> None:
        """Compress one picture, and have it appended.

        Args:
            picture: of any size.
            pts: media time in units of the header's time base.
            capture_ns: wall clock, ns since 1970 UTC.
            emphasis: see base.Codec.compress.
            following: the picture of the next call, where it is there already: its motion is found
                meanwhile. It must stay as it is.

        Raises:
            ValueError: the picture is larger than a file can hold.
            OSError: this or an earlier frame could not be written.
        """
        height, width = picture.y.shape
        check_size(width, height)
        period = self._writer.header.intra_period
        if (period and self._position == period) or (width, height) != self._size:
            self._state, self._position, self._size = None, 0, (width, height)
        position, intra = self._position, self._state is None
        if self._state is not None:
            seen = self._codec.is_at_rest(self._state)
            self._at_rest = self._at_rest if seen is None else seen
        at_rest = self._at_rest
        offset = quality_offset(position, at_rest=at_rest)
        quality = max(0, min(self._rate.next() + offset, self._codec.qualities - 1))
        vectors = self._found(picture)
        if (
            following is not None
            and following.y.shape == picture.y.shape
            and position + 1 != period
        ):
            search = self._threads.submit(self._codec.find_motion, following, picture)
            self._ahead = following, search
        pack, self._state = self._codec.analyse(
            picture, self._state, quality=quality, emphasis=emphasis, vectors=vectors
        )
        seconds = self._seconds_since(pts)
        self.flush()  # the writer is one thread's at a time

        def write() -> None:
            payload = pack()
            self._writer.write_frame(
                payload,
                intra=intra,
                quality=quality,
                pts=pts,
                capture_ns=capture_ns,
                size=(width, height),
            )
            self._rate.spent(position, quality, len(payload), seconds, at_rest=at_rest)

        self._packing = self._threads.submit(write)
        self._position += 1

    def add_metadata(self, data: bytes) -> None:
        """Append bytes that belong behind the last frame, such as an event in JSON."""
        self.flush()
        self._writer.write_metadata(data)

    def flush(self) -> None:
        """Wait until all frames are written.

        Raises:
            OSError: one could not be.
        """
        packing, self._packing = self._packing, None
        if packing is not None:
            packing.result()

    def close(self) -> None:
        """Flush, and end the threads."""
        try:
            self.flush()
        finally:
            self._threads.shutdown()

    def __enter__(self) -> Recorder[StateT]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self, picture: Planes420) -> I32 | None:
        """The motion of a picture that was announced."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] is not picture:
            return None
        return ahead[1].result()

    def _seconds_since(self, pts: int) -> float:
        """Media time since the frame before."""
        since = 0 if self._last_pts is None else pts - self._last_pts
        self._last_pts = pts
        return float(since * self._writer.header.time_base) or FIRST_FRAME_S


@dataclass(frozen=True, slots=True)
class Played:
    """One decoded picture with its times."""

    picture: Picture
    pts: int
    capture_ns: int
    payload_bytes: int
    intra: bool


class Player(Generic[StateT]):
    """Decodes the frames of a reader."""

    def __init__(self, codec: Codec[StateT], reader: LvcReader) -> None:
        """Take a reader, which stays the caller's to close.

        Raises:
            EngineMismatch: the file was written with another codec or model.
        """
        check_codec(codec, reader.header)
        self._codec, self._reader = codec, reader
        self.refused: list[str] = []
        """Why frames with a right CRC could not be decoded; empty unless a writer was wrong."""

    def pictures(self) -> Iterator[Played]:
        """Pictures in order, each of its own size; after damage they go on at the next intra."""
        header = self._reader.header
        size = width, height = header.width, header.height
        state: StateT | None = None
        for record in self._reader.records():
            if not record.is_frame or (state is None and record.type is RecordType.INTER):
                continue
            if record.type is RecordType.INTRA:
                state = None
                width, height = record.geometry or size
            try:
                picture, state = self._codec.decompress(
                    record.payload, state, width=width, height=height, quality=record.quality
                )
            except BitstreamError as error:
                state = None
                self.refused.append(str(error))
                logger.warning("frame at pts %d: %s", record.pts, error)
                continue
            intra = record.type is RecordType.INTRA
            payload_bytes = len(record.payload)
            yield Played(picture, record.pts, record.capture_ns, payload_bytes, intra)


def check_codec(codec: Codec[StateT], header: Header) -> None:
    """Refuse a file of another codec, model or period of refreshes.

    Raises:
        EngineMismatch: its text names both.
    """
    if (codec.name, codec.model_hash) != (header.codec, header.model_hash):
        raise EngineMismatch(
            f"this file needs {header.codec} {header.model_hash.hex()[:12]}, got {codec.name} "
            f"{codec.model_hash.hex()[:12]}; load the model that it was written with"
        )
    if codec.refresh_period != header.refresh_period:
        raise EngineMismatch(
            f"this file needs refresh_period {header.refresh_period}, got {codec.refresh_period}; "
            "give the codec the period of the header"
        )
