"""Join one camera's frames with their tracks, draw, and write files; runs in the encode process.

A recording never has a hole because of inference: what is late, skipped or dead costs the boxes,
not the frame.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2

from streamer.errors import SinkError, StaleFrame
from streamer.events import utc
from streamer.frames import PoolReader
from streamer.graph import encoder_threads
from streamer.join import Join, Joined
from streamer.messages import (
    Annotation,
    EndOfStream,
    Fields,
    Frame,
    FrameInfo,
    PeerDown,
    Skipped,
    Tracks,
)
from streamer.painter import Hider, Painter
from streamer.queues import Received
from streamer.sinks.base import (
    CodecChanged,
    DiskLow,
    Notice,
    PictureResized,
    Recording,
    RecordingFailed,
    RecordingResumed,
    SegmentEnded,
    SegmentStarted,
    TimelineJoined,
)
from streamer.sinks.encoder import SUFFIXES, Codec, LearnedOptions, WriterOptions
from streamer.sinks.files import load_codec, sustained_size
from streamer.sinks.recover import recover
from streamer.sinks.segments import SegmentRecorder
from streamer.sinks.single import SingleFile
from streamer.sources.base import FrameTimes
from streamer.stage import Stage, StageStart

log = logging.getLogger(__name__)


class Encode(Stage):
    """Writes all files of one camera."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        cv2.setNumThreads(1)
        self._camera = start.config.cameras[self.camera]
        self._live = start.live[self.camera]
        self._decode, self._track = f"decode.{self.camera}", f"track.{self.camera}"
        deadline_s = start.config.encode.deadline_s if self._live else None
        kinds = set(start.spec.producers) - {self._decode}
        self._join: Join[Received, Tracks | Annotation] = Join(kinds, deadline_s)
        self._reader = PoolReader(start.supervisor_pid)
        segmenter = start.config.segmenter
        self._painter = Painter(
            self.camera, self._camera, map_opacity=segmenter.opacity if segmenter else 0.0
        )
        self._outputs: list[Recording] = []
        self._hiders: dict[Recording, Hider] = {}
        self._opened = False
        self._last_seq = -1
        self._written_seq = -1
        self._held: list[tuple[int, Received]] = []
        """What is known of frames that are not written yet; our successor would need it."""
        self._ended = False

    def on_open(self) -> None:
        """Refuse outputs that can't be written, and say what a killed predecessor has left."""
        self._make_outputs(None)
        folder = self.config.record_folder(self.camera)
        for found in recover(Path(folder)) if folder else []:
            if found.path.parent.parent.name == self.camera:
                log.warning("%s was cut short; %.1f s of it play", found.path, found.playable_s)

    def on_item(self, item: Received) -> None:
        """Take in a frame, or what is known of one."""
        body = item.body
        if isinstance(body, Frame) and body.info.seq > self._last_seq:
            self._last_seq = body.info.seq
            self.inbox.next_seq[item.producer] = body.info.seq + 1
            self._join.add(body.info.seq, item, time.monotonic())
        elif isinstance(body, (Tracks, Annotation)):
            skipped = body.detections.skipped if isinstance(body, Tracks) else body.skipped
            if skipped:
                self._join.skip(item.producer, body.info.seq, skipped)
            else:
                self._join.annotate(item.producer, body.info.seq, body)
            self._held.append((body.info.seq, item))
        else:
            if isinstance(body, Skipped):
                kind = self._track if body.stage == "infer" else body.stage
                self._join.skip(kind, body.seq, body.cause)
            elif isinstance(body, EndOfStream) and item.producer != self._decode:
                self._join.no_more_results(item.producer, "ended")
            elif isinstance(body, EndOfStream):
                self._ended = True
            self.inbox.done(item.producer, item.number)
        self.tick_at = time.monotonic()

    def on_peer_down(self, down: PeerDown) -> None:
        """Without its producer a frame or an annotation never comes."""
        if down.final and down.stage == self._decode:
            self._ended = True
        elif down.final and down.stage in self.spec.producers:
            self._join.no_more_results(down.stage, "failed")
        self.tick_at = time.monotonic()

    def on_tick(self) -> None:
        """Write one frame, if one can go; a slow encoder must not keep us from our beats."""
        self.tick_at = time.monotonic() if self._write_next() else self._join.due_s
        self._give_back()

    def finished(self) -> bool:
        """All frames are written, and nobody has anything to say about them."""
        heard = self._join.complete and not self._held
        return self.stopping or (self._ended and not len(self._join) and heard)

    def on_close(self) -> None:
        """Finish all files; frames that a hurried stop leaves here are counted, not written."""
        if len(self._join):
            self.dropped[self.camera]["encode_stopped"] += len(self._join)
        for output in self._outputs:
            self._tell_closed(output)
        if self._opened:
            self.notice("recording.ended", self.camera, frames=self.counters["frames"])

    def _give_back(self) -> None:
        """What is known of frames that are written, or will never come."""
        over = self._ended and not len(self._join)
        held, self._held = self._held, []
        for seq, item in held:
            if over or seq <= self._written_seq:
                self.inbox.done(item.producer, item.number)
            else:
                self._held.append((seq, item))

    def _write_next(self) -> bool:
        joined = self._join.next(time.monotonic())
        if joined is not None:
            self._write(joined)
        return joined is not None

    def _write(self, joined: Joined[Received, Tracks | Annotation]) -> None:
        frame = joined.item.body
        assert isinstance(frame, Frame)
        info = frame.info
        for kind, cause in joined.skipped.items():
            prefix = "bare" if kind == self._track else f"bare.{kind}"
            self.counters[f"{prefix}.{cause}"] += 1
        if not self._opened:
            self._open(info)
        self._learn(info, joined.results)
        times = FrameTimes(
            info.pts, Fraction(*info.time_base), info.capture_ns, info.receive_ns,
            info.discontinuity,
        )  # fmt: skip
        try:
            planes = self._reader.planes(frame, joined.item.inline)
            canvases = [output.blank(info.width, info.height) for output in self._outputs]
            for canvas in canvases:
                canvas.planes.copy_from(planes)
            self._reader.check(frame, joined.item.inline)
        except StaleFrame as error:
            log.warning("%s", error)
            self.dropped[self.camera]["encode_stale"] += 1
            return
        finally:
            self.inbox.done(joined.item.producer, joined.item.number)
            self._written_seq = info.seq
        lost_before = self._frames_lost()
        for output, canvas in zip(list(self._outputs), canvases, strict=True):
            self._hiders[output].hide(canvas.planes, info)
            if self._camera.overlay:
                self._painter.paint(canvas.planes, info)
            try:
                seen = replace(canvas, objects_xyxy=self._painter.objects_xyxy(info))
                self._tell(output.write(seen, times))
            except SinkError as error:
                self._give_up(output, error)
        if self._outputs:
            lost = self._frames_lost() - lost_before
            self.counters["frames"] += 1 - lost
            self.counters["last_ns"] = time.monotonic_ns()
            if lost:
                self.dropped[self.camera]["not_written"] += lost

    def _learn(self, info: FrameInfo, results: dict[str, Tracks | Annotation]) -> None:
        tracks = results.get(self._track)
        assert tracks is None or isinstance(tracks, Tracks)
        others = {
            kind: result for kind, result in results.items() if isinstance(result, Annotation)
        }
        self._painter.learn(info, tracks, others)
        for hider in self._hiders.values():
            hider.learn(info, tracks)

    def _frames_lost(self) -> int:
        """Of the recording that has lost most; more than one have the same frames."""
        recorders = [output for output in self._outputs if isinstance(output, SegmentRecorder)]
        return max((recorder.frames_lost for recorder in recorders), default=0)

    def _open(self, first: FrameInfo) -> None:
        self._opened = True
        self._outputs = self._make_outputs(first)
        self._hiders = {
            output: Hider(
                self.camera,
                self._camera.hide_in("out" if isinstance(output, SingleFile) else "record"),
            )
            for output in self._outputs
        }

    def _learned(self, first: FrameInfo | None) -> LearnedOptions | None:
        """What the learned codec is told; None where this machine is too slow for it."""
        given, beside = self.config.encode.learned, len(self.config.encode.codecs) > 1
        options = LearnedOptions(
            model=given.model,
            quality=given.quality,
            kbps=given.kbps,
            cap=given.cap,
            emphasis=given.emphasis,
            device=given.device,
            relieved=not beside,
        )
        if given.size != "auto":
            width, _, height = given.size.partition("x")
            return replace(options, size=(int(width), int(height)))
        threads = encoder_threads(self.config)
        if first is None:
            load_codec(options, threads=threads)
        if first is None or not self._live:
            return options
        size = sustained_size(
            options, first.width, first.height, fps=first.fps or 25.0, threads=threads
        )
        if size is None:
            text = "this machine is too slow for the learned codec; H.264 is written"
            if beside:
                text = "this machine is too slow for the learned codec; it is left out"
            log.warning("%s", text)
            self.notice("recording.changed", self.camera, path="", message=text)
            return None
        return replace(options, size=size)

    def _make_outputs(self, first: FrameInfo | None) -> list[Recording]:
        """Check and make what writes; no file is begun before its first frame."""
        outputs: list[Recording] = []
        codecs = self.config.encode.codecs
        for codec in codecs:
            learned = self._learned(first) if codec == "learned" else None
            if codec == "learned" and learned is None:
                if len(codecs) > 1:
                    continue
                codec = "h264"
            outputs += self._outputs_of(codec, learned, first)
        return outputs

    def _outputs_of(
        self, codec: Codec, learned: LearnedOptions | None, first: FrameInfo | None
    ) -> list[Recording]:
        outputs: list[Recording] = []
        encode = self.config.encode
        options = WriterOptions(
            live=self._live,
            codec=codec,
            preset=encode.preset or None,
            crf=encode.crf,
            fps=(first.fps or None) if first else None,
            threads=encoder_threads(self.config),
            matrix=first.matrix if first else "bt601",
            learned=learned,
        )
        options.check()
        if self._camera.out:
            path = Path(self._camera.out)
            if len(encode.codecs) > 1 and path.suffix.lower() in SUFFIXES:
                path = path.with_suffix(options.suffix)
            outputs.append(
                SingleFile(
                    path,
                    options,
                    overwrite=True,
                    inputs=(Path(self._camera.source),),
                    part=self.start.incarnation + 1,
                )
            )
        folder = self.config.record_folder(self.camera)
        if folder:
            segment_s = self.config.record.segment_s
            outputs.append(
                SegmentRecorder(
                    Path(folder),
                    self.camera,
                    options,
                    segment_s=segment_s,
                    min_free_mb=self.config.record.min_free_mb,
                )
            )
        return outputs

    def _give_up(self, output: Recording, error: SinkError) -> None:
        """This output is over; the others go on."""
        log.error("%s", error)
        self.error = error
        self.notice("recording.failed", self.camera, path=self._camera.out, message=str(error))
        self._outputs.remove(output)
        self._tell_closed(output)

    def _tell_closed(self, output: Recording) -> None:
        try:
            self._tell(output.close())
        except SinkError as error:
            log.error("%s", error)
            self.error = error

    def _tell(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            kind, fields = _event(notice)
            self.notice(kind, self.camera, **fields)
            if kind in ("recording.failed", "recording.changed"):
                log.warning("%s: %s", fields["path"], fields["message"])
            if isinstance(notice, RecordingFailed):
                self.error = SinkError(notice.message)
            elif isinstance(notice, RecordingResumed):
                self.error = None


def _event(notice: Notice) -> tuple[str, Fields]:
    """The event that tells what happened to a file."""
    if isinstance(notice, SegmentStarted):
        width, height = notice.size
        return "recording.started", {
            "path": str(notice.path),
            "codec": notice.codec,
            "width": width,
            "height": height,
        }
    if isinstance(notice, CodecChanged):
        return "recording.changed", {"path": str(notice.path), "message": notice.message}
    if isinstance(notice, SegmentEnded):
        return "recording.segment", {
            "path": str(notice.path),
            "start_utc": utc(notice.start_utc_ns),
            "duration_s": notice.duration_s,
            "frames": notice.frames,
            "size_bytes": notice.size_bytes,
            "finished": notice.finished,
        }
    if isinstance(notice, RecordingFailed):
        return "recording.failed", {"path": str(notice.path), "message": notice.message}
    if isinstance(notice, RecordingResumed):
        return "recording.resumed", {
            "path": str(notice.path),
            "frames_lost": notice.frames_lost,
        }
    if isinstance(notice, DiskLow):
        room = f"only {notice.free_bytes / 1e6:.0f} MB are free; make room soon"
        return "recording.changed", {"path": str(notice.folder), "message": room}
    if isinstance(notice, PictureResized):
        sizes = [f"{width}x{height}" for width, height in (notice.from_size, notice.to_size)]
        how = "letterboxed to" if notice.letterboxed else "recorded at"
        text = f"frames are {sizes[0]} from here on, {how} {sizes[1]}"
        return "recording.changed", {"path": str(notice.path), "message": text}
    assert isinstance(notice, TimelineJoined)
    text = f"the source's clock restarted; the file goes on at {notice.media_s:.3f} s"
    return "recording.changed", {"path": str(notice.path), "message": text}


make = Encode
