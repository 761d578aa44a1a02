"""Stages beside infer without their processes, and networks for them that a test can work out."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import msgspec
import numpy as np
import onnx
import torch
import zmq
from infer_stage import pixels_of
from onnx import TensorProto, helper, numpy_helper
from samples import info_of

from engines.cascade.export import export, signature_of
from engines.cascade.model import Cascade
from engines.cascade.model import Config as Network
from streamer.config import Config
from streamer.graph import build_graph
from streamer.ledger import make_ledger
from streamer.messages import Annotation, Body, EndOfStream, Frame, FrameInfo, Tracks
from streamer.planes import Planes
from streamer.queues import Received
from streamer.stage import Stage, StageStart

DARK, BRIGHT = 60, 200
WINDOW, RATE = 4, 8
_RUNS = itertools.count()


def save_brightness(
    path: Path, *, scope: str = "frame", classes: Sequence[str] = ("calm", "wild")
) -> Path:
    """Write a recogniser: "wild" is whatever is brighter than grey."""
    nodes = [
        helper.make_node("Cast", ["planes"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["real", "zero"], ["luma"], axis=1),
        helper.make_node("ReduceMean", ["luma"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Sub", ["column", "grey"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], ["wild"]),
        helper.make_node("Mul", ["above", "nothing"], ["calm"]),
        helper.make_node("Concat", ["calm", "wild"], ["scores"], axis=1),
        helper.make_node("Unsqueeze", ["scores", "one"], ["head"]),
        helper.make_node("Concat", ["head", "head"], ["logits"], axis=1),
        helper.make_node("Mul", ["before_mean", "nothing"], ["forgotten"]),
        helper.make_node("Add", ["column", "forgotten"], ["after_mean"]),
    ]
    constants = {
        "zero": np.int64(0),
        "one": np.array([1], np.int64),
        "grey": np.array([[(DARK + BRIGHT) / 2]], np.float32),
        "gain": np.array([[0.2]], np.float32),
        "nothing": np.array([[0.0]], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "brightness",
        [
            helper.make_tensor_value_info("planes", TensorProto.UINT8, ["batch", 3, 8, 8]),
            helper.make_tensor_value_info("before_mean", TensorProto.FLOAT, ["batch", 1]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, 2]),
            helper.make_tensor_value_info("after_mean", TensorProto.FLOAT, ["batch", 1]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    metadata = {
        "family": "streamer.off", "classes": ",".join(classes), "background": classes[0],
        "scope": scope, "rate": str(RATE), "window": str(WINDOW), "lag": "0", "order": "1",
        "weights": "1,0.5",
    }  # fmt: skip
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def write_flashes(
    path: Path,
    bright_s: Sequence[tuple[float, float]],
    *,
    seconds: float,
    fps: int = 25,
    size: tuple[int, int] = (128, 96),
) -> Path:
    """Encode a dark picture that is bright from time to time, with a little that moves."""
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "20"}
        for index in range(round(seconds * fps)):
            bright = any(begin <= index / fps < end for begin, end in bright_s)
            i420 = np.full((height * 3 // 2, width), 128, np.uint8)
            i420[:height] = BRIGHT if bright else DARK
            at = index * 2 % (width - 16)
            i420[height // 2 : height // 2 + 16, at : at + 16] = 235
            frame = av.VideoFrame.from_ndarray(i420, format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def save_segmenter(folder: Path, *, seed: int = 6) -> Path:
    """Write a cascade of random weights; by this seed its labels change with the brightness."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net = Cascade(Network(variant="small"))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.4)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_var.uniform_(0.3, 0.9)
    for stage in (net.stage1, net.stage2, net.stage3):
        torch.nn.init.normal_(stage.head[1].weight, std=0.35)
    export(net.eval(), folder, signature_of(net, width=128, height=96, rho=0.9))
    return folder


def grey(level: int, width: int = 34, height: int = 18) -> Planes:
    """A picture of one brightness."""
    planes = Planes.empty(width, height)
    planes.y[:], planes.u[:], planes.v[:] = level, 128, 128
    return planes


class Driven:
    """One stage whose results are kept in `sent`; it may have successors, which own its ledger."""

    def __init__(self, kind: type[Stage], config: Config, *, name: str, live: bool = False) -> None:
        self._kind, self._config = kind, config
        self._graph = build_graph(config, dict.fromkeys(config.cameras, live))
        self._ledger_fd = make_ledger(name)
        self._name, self._incarnation = name, 0
        self._numbers = itertools.count(1)
        self.sent: list[tuple[tuple[str, ...], Body]] = []
        """To whom, and what."""
        self.given_back: list[tuple[str, int]] = []
        self.stage = self._make()

    def __enter__(self) -> Driven:
        try:
            self.stage.on_open()
        except Exception:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        os.close(self._ledger_fd)

    def die(self) -> None:
        """The process is killed; its successor begins."""
        self._close()
        self._incarnation += 1
        self.stage = self._make()
        self.stage.on_open()

    def take(self, producer: str, body: Body, inline: memoryview | None = None) -> int:
        """Anything comes; the number under which it must be given back."""
        number = next(self._numbers)
        self.stage.on_item(Received(producer, number, body, inline))
        self.settle()
        return number

    def frame(self, info: FrameInfo, planes: Planes, *, old_s: float = 0.0) -> int:
        """A frame comes, its pixels in the message."""
        received_ns = time.monotonic_ns() - round(old_s * 1e9)
        told = msgspec.structs.replace(
            info, width=planes.width, height=planes.height, receive_ns=received_ns
        )
        frame = Frame(told, -1, 0, 0)
        return self.take(f"decode.{info.camera}", frame, pixels_of(planes))

    def end(self, producer: str, camera: str = "gate") -> None:
        """A stream ends."""
        self.take(producer, EndOfStream(camera))

    def settle(self) -> None:
        """Let the stage do what is due."""
        while time.monotonic() >= self.stage.tick_at:
            self.stage.tick_at = float("inf")
            self.stage.on_tick()

    def to(self, consumer: str) -> list[Body]:
        """What was sent to one."""
        return [body for consumers, body in self.sent if consumer in consumers]

    def annotations(self, consumer: str = "publish") -> list[Annotation]:
        """What was said of frames, to one."""
        return [body for body in self.to(consumer) if isinstance(body, Annotation)]

    def tracks(self) -> list[Tracks]:
        """What a track stage has sent."""
        return [body for body in self.to("publish") if isinstance(body, Tracks)]

    def happenings(self) -> list[tuple[str, dict[str, object]]]:
        """All that was told, with what it follows from."""
        bodies = (body for body in self.to("publish"))
        return [
            (each.kind, dict(each.fields))
            for body in bodies
            if isinstance(body, Annotation | Tracks | EndOfStream)
            for each in body.happenings
        ]

    def _make(self) -> Stage:
        stage = self._kind(
            StageStart(
                spec=self._graph.stage(self._name), config=self._config, live=self._graph.live,
                run=f"driven{os.getpid()}.{next(_RUNS)}", incarnation=self._incarnation,
                supervisor_pid=os.getpid(), control="ipc://@nobody", ledger_fd=self._ledger_fd,
            )
        )  # fmt: skip

        def forward(item: Received, body: Body, *, to: Iterable[str] | None = None) -> None:
            self.sent.append((tuple(stage.outbox.consumers if to is None else to), body))
            done(item.producer, item.number)

        def done(producer: str, number: int) -> None:
            self.given_back.append((producer, number))

        stage.forward = forward  # type: ignore[method-assign]
        stage.inbox.done = done  # type: ignore[method-assign]
        return stage

    def _close(self) -> None:
        self.stage.on_close()
        self.stage._control.set(zmq.LINGER, 0)  # nobody listens
        self.stage.close()


def at_ms(ms: int, *, camera: str = "gate", epoch: int = 1, jump: bool = False) -> FrameInfo:
    """A frame by its media time, which is also its number."""
    info = info_of(ms, camera=camera, epoch=epoch)
    return msgspec.structs.replace(info, pts=ms, time_base=(1, 1000), discontinuity=jump)
