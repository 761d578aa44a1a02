"""Load the networks that one configuration asks of the infer process, or say what doesn't fit.

Runs once, before the process is ready. Errors name the key of the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.classifiers.runtime import Classifier
from engines.detectors.runtime import Detector
from engines.errors import EngineError
from engines.reid.runtime import Embedder
from streamer.config import Config, DetectorConfig
from streamer.errors import ConfigError
from streamer.graph import processors
from streamer.inference.refine import Appearance, Opinion, Step
from streamer.tracking.options import NAMED


def load_detector(settings: DetectorConfig, *, cameras: int, fixed: bool) -> tuple[Detector, int]:
    """Load and warm up the detector.

    Args:
        settings: as configured.
        cameras: how many there are.
        fixed: every call is of the same length, so that no result depends on its neighbours.

    Returns:
        The detector, and how many frames a call holds at the most.

    Raises:
        ConfigError: an option does not fit the network.
        EngineError: there is no such network, or nothing here runs it.
    """
    most = settings.frames_a_call(cameras)
    try:
        detector = Detector.load(
            settings.model,
            device=settings.device,
            streams=settings.streams or processors(),
            precision=settings.precision,
            batch=most if fixed or most == 1 else None,
            score=settings.score_low,
            nms_iou=settings.nms_iou,
            only=settings.classes or None,
        )
    except ValueError as error:
        if isinstance(error, EngineError):
            raise
        raise ConfigError(f"detector: {error}") from error
    held = detector.max_batch
    if held is not None and settings.batch > held:
        detector.close()
        raise ConfigError(
            f"detector.batch: {settings.model} takes {held} pictures a call, got {settings.batch}; "
            "leave the key out, or export the network with a free batch axis"
        )
    detector.engine.warm_up()
    return detector, held or most


CROPS_A_CALL = 16


def load_steps(config: Config, classes: Sequence[str], *, fixed: bool) -> list[Step]:
    """Load and warm up all second-stage networks, in their order.

    Args:
        config: of the run.
        classes: that the detector knows.
        fixed: every call is of the same length, so that no result depends on its neighbours.

    Raises:
        ConfigError: one of them does not fit the detector.
        EngineError: there is no such network, or nothing here runs it.
    """
    detector, tracker = config.detector, config.tracker
    assert detector is not None
    # On a CPU crops are computed one by one (equal to the bit in calls of any length), and filling
    # up costs what a crop costs; a GPU is as fast with a full call.
    batch = CROPS_A_CALL if fixed and not detector.on_cpu else None
    steps: list[Step] = []
    for settings in detector.then:
        classifier = Classifier.load(settings.model, device=detector.device, batch=batch)
        steps.append(Opinion(classifier, settings, classes, detector.score_low))
    if tracker.reid:
        unknown = sorted(set(tracker.reid_classes) - set(classes))
        if unknown:
            raise ConfigError(
                f"tracker.reid_classes: must be of the detector's {', '.join(classes)}, got "
                f"{', '.join(unknown)}; drop them"
            )
        wanted = [not tracker.reid_classes or name in tracker.reid_classes for name in classes]
        steps.append(
            Appearance(
                Embedder.load(
                    tracker.reid, device=detector.device, streams=processors(), batch=batch
                ),
                score=detector.score,
                crops=tracker.reid_crops,
                wanted=np.array(wanted),
            )
        )
    for step in steps:
        step.network.engine.warm_up()
    return steps


def wants_motion(config: Config) -> bool:
    """True if the camera's motion is to be estimated."""
    tracker = config.tracker
    if tracker.motion != "auto":
        return tracker.motion == "on"
    uses = tracker.camera_motion
    return NAMED[tracker.name].camera_motion if uses is None else uses
