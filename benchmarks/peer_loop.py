"""Turn a video into an annotated one by a plain loop, as one writes it in an afternoon.

The peer of bench_pipeline: OpenCV reads, ONNX Runtime (or OpenVINO) detects with its default
settings, ByteTrack of the package `supervision` tracks, OpenCV draws, PyAV writes H.264. Nothing is
computed twice, grids are made once, and the arrays are reused. Each frame is inferred. With
--frame-threads x264 works while the loop goes on, which few who write such a loop know to ask PyAV
for: by default it slices each picture, and the loop waits. Knows nothing of streamer.

Usage: python -m benchmarks.peer_loop VIDEO MODEL OUT.mp4 DETECTIONS.json [--engine openvino]
       [--frame-threads]
The last line is one JSON object: frames, seconds from the first frame to the last packet, fps.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import supervision as sv
from numpy.typing import NDArray

SCORE_LOW, SCORE, NMS_IOU = 0.1, 0.3, 0.45
STRIDES = (8, 16, 32)
F32 = NDArray[np.float32]
Network = Callable[[F32], F32]


def onnxruntime_network(model: Path) -> Network:
    """A session with the library's own defaults: all cores work on one frame."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def openvino_network(model: Path) -> Network:
    """A compiled network with the library's own defaults."""
    import openvino

    compiled = openvino.Core().compile_model(str(model), "CPU")
    request = compiled.create_infer_request()
    return lambda image: request.infer([image], share_inputs=True, share_outputs=True)[0]


NETWORKS = {"onnxruntime": onnxruntime_network, "openvino": openvino_network}


class Yolox:
    """YOLOX with its letterbox and decoding."""

    def __init__(self, network: Network, side: int) -> None:
        self._network, self._side = network, side
        self._image = np.full((1, 3, side, side), 114, np.float32)
        cells, strides = [], []
        for stride in STRIDES:
            row, column = np.mgrid[: side // stride, : side // stride]
            cells.append(np.stack([column.ravel(), row.ravel()], 1))
            strides.append(np.full((row.size, 1), stride))
        self._cells = np.concatenate(cells).astype(np.float32)
        self._strides = np.concatenate(strides).astype(np.float32)

    def detect(self, image: NDArray[np.uint8]) -> sv.Detections:
        """All objects of one BGR picture from SCORE_LOW up, which is what ByteTrack wants."""
        height, width = image.shape[:2]
        ratio = min(self._side / width, self._side / height)
        small = cv2.resize(image, (int(width * ratio), int(height * ratio)))
        self._image[0, :, : small.shape[0], : small.shape[1]] = small.transpose(2, 0, 1)
        rows = self._network(self._image)[0]
        likely = np.flatnonzero(rows[:, 4] >= SCORE_LOW)
        scores = rows[likely, 5:] * rows[likely, 4:5]
        classes = scores.argmax(1)
        best = scores[np.arange(len(likely)), classes]
        keep = best >= SCORE_LOW
        likely, classes, best = likely[keep], classes[keep], best[keep]
        strides = self._strides[likely]
        centre = (rows[likely, :2] + self._cells[likely]) * strides / ratio
        size = np.exp(rows[likely, 2:4]) * strides / ratio
        corners = np.hstack([centre - size / 2, size])
        kept = np.array(
            cv2.dnn.NMSBoxesBatched(
                corners.tolist(), best.tolist(), classes.tolist(), SCORE_LOW, NMS_IOU
            ),
            int,
        ).ravel()
        boxes = np.hstack([corners[kept, :2], corners[kept, :2] + corners[kept, 2:]])
        limits = np.array([width, height, width, height], np.float32)
        return sv.Detections(
            xyxy=np.clip(boxes, 0, limits).astype(np.float32).reshape(-1, 4),
            confidence=best[kept].astype(np.float32),
            class_id=classes[kept].astype(int),
        )


def rows(objects: sv.Detections) -> list[list[float]]:
    """Class, score and corners of the objects that count as detected."""
    assert objects.class_id is not None
    assert objects.confidence is not None
    table = np.column_stack([objects.class_id, objects.confidence, objects.xyxy])
    sure: list[list[float]] = table[objects.confidence >= SCORE].tolist()
    return sure


def draw(image: NDArray[np.uint8], tracks: sv.Detections) -> None:
    """Boxes and labels of all tracks."""
    assert tracks.tracker_id is not None
    assert tracks.confidence is not None
    for box, track_id, score in zip(
        tracks.xyxy.astype(int).tolist(),
        tracks.tracker_id.tolist(),
        tracks.confidence.tolist(),
        strict=True,
    ):
        colour = (37 * track_id % 255, 91 * track_id % 255, 173 * track_id % 255)
        cv2.rectangle(image, box[:2], box[2:], colour, 2)
        cv2.putText(
            image, f"{track_id} {score:.2f}", (box[0], box[1] - 4),
            cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1,
        )  # fmt: skip


def main() -> None:
    """Run the loop over one file."""
    options = parse()
    warnings.simplefilter("ignore")  # the tracker's package says that a newer one is coming
    capture = cv2.VideoCapture(str(options.video))
    fps = capture.get(cv2.CAP_PROP_FPS)
    detector = Yolox(NETWORKS[options.engine](options.model), options.side)
    detector.detect(np.zeros((options.side, options.side, 3), np.uint8))  # warm-up
    tracker = sv.ByteTrack(frame_rate=round(fps))
    found: list[list[list[float]]] = []
    cpu_s, begin_s = os.times(), time.monotonic()
    with av.open(str(options.out), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        stream.height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        if options.frame_threads:
            stream.thread_type = "FRAME"
        while len(found) < (options.frames or float("inf")):
            more, image = capture.read()
            if not more:
                break
            objects = detector.detect(image)
            found.append(rows(objects))
            draw(image, tracker.update_with_detections(objects))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    seconds = time.monotonic() - begin_s
    cpu_ms = sum(os.times()[:2]) - sum(cpu_s[:2])
    options.detections.write_text(json.dumps(found))
    print(
        json.dumps(
            {
                "frames": len(found),
                "seconds": round(seconds, 3),
                "fps": round(len(found) / seconds, 2),
                "cpu_ms_frame": round(cpu_ms * 1e3 / len(found), 2),
                "bytes": options.out.stat().st_size,
            }
        )
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("video", "model", "out", "detections"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--engine", choices=list(NETWORKS), default="onnxruntime")
    parser.add_argument("--frame-threads", action="store_true", help="of x264")
    parser.add_argument("--frames", type=int, default=0, help="0 for all")
    parser.add_argument("--side", type=int, default=416, help="of the network's input, px")
    return parser.parse_args()


if __name__ == "__main__":
    main()
