"""Say how frames are written: the section `encode` of a configuration."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from msgspec import Meta

from streamer.strict import Strict

Codec = Literal["h264", "hevc", "av1", "learned"]
Codecs = Literal["h264", "hevc", "av1", "learned", "h264+learned", "hevc+learned", "av1+learned"]


class LearnedConfig(Strict, frozen=True):
    """The learned codec; used where codec is learned."""

    model: str = "rt-nano"
    """Name of a shipped codec, or folder of an exported one."""
    quality: Annotated[int, Meta(ge=0, le=63)] = 24
    """Constant quality; higher is better."""
    kbps: Annotated[float, Meta(gt=0)] | None = None
    """Mean thousand bits a second, in place of constant quality."""
    cap: bool = False
    """Let kbps only lower the quality where pictures would need more."""
    size: Annotated[str, Meta(pattern=r"^(auto|\d{2,5}x\d{2,5})$")] = "auto"
    """WIDTHxHEIGHT of what is recorded; sources of another shape keep it, at as many pixels. auto:
    as the source offline; live the largest that this machine sustains beside the other stages."""
    emphasis: Annotated[int, Meta(ge=0, le=40)] = 12
    """By how much the quality is better where objects are; 0 for the same everywhere."""
    device: str = "auto"
    """auto, cpu, or a device such as cuda:0."""


class EncodeConfig(Strict, frozen=True):
    """How frames are written."""

    codec: Codecs = "h264"
    """With +learned every file has one of the learned codec beside it."""
    learned: LearnedConfig = LearnedConfig()
    preset: str = ""
    """Of the encoder; empty for veryfast or its like."""
    crf: Annotated[int, Meta(ge=0, le=63)] | None = None
    """Constant quality; lower is better. None for 23 or its like."""
    threads: Annotated[int, Meta(ge=0, le=64)] = 0
    """0 divides the processor cores between the cameras."""
    join_frames: Annotated[int, Meta(ge=2, le=250)] = 16
    """Frames that wait for their annotation at the most, each in a slot of shared memory."""
    deadline_s: Annotated[float, Meta(gt=0, le=10)] = 0.2
    """Live: how long a frame waits for its annotation."""

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """Each by itself."""
        return cast("tuple[Codec, ...]", tuple(self.codec.split("+")))
