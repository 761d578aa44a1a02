"""Fit how much each class is favoured, so that labels overlap the true ones best; offline, torch.

Training weighs rare classes more so that they are learned at all, and mixes pictures of several
origins; what a class should get in the end is another question, answered here on labelled pictures.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engines.cascade.examples import IGNORE, TARGET_STRIDE, Packs
from engines.cascade.model import Cascade

F32 = NDArray[np.float32]
POSITIONS = 1_500_000
_STEPS = (0.8, 0.4, 0.2, 0.1)
_ROUNDS = 2
"""Of all classes, with each step."""


def fit_prior(net: Cascade, packs: Packs, *, positions: int = POSITIONS) -> Tensor:
    """Find what to add to the last stage's logits, run densely, for the best mean IoU.

    Each class is moved up or down in turn, by smaller and smaller steps, while that helps.

    Args:
        net: trained, in evaluation mode; its own prior is not looked at.
        packs: labelled pictures; the ones it was trained on do.
        positions: so many are judged, evenly drawn from all pictures.

    Returns:
        (classes, 1, 1), of mean 0.
    """
    scores, truth = _judged(net, packs, positions)
    prior = np.zeros(packs.classes, np.float32)
    best = _miou(scores.argmax(axis=0), truth, packs.classes)
    for step in _STEPS:
        for index in list(range(packs.classes)) * _ROUNDS:
            rival, best_rival = _best_but(scores, index)
            for by in (step, -step):
                found = np.where(scores[index] + by > best_rival, index, rival)
                if (score := _miou(found, truth, packs.classes)) > best:
                    best, prior[index] = score, prior[index] + by
                    scores[index] += by
                    break
    return torch.from_numpy(prior - prior.mean())[:, None, None]


def _best_but(scores: F32, index: int) -> tuple[NDArray[np.int64], F32]:
    """Find the best of all other classes, and its score."""
    others = [other for other in range(len(scores)) if other != index]
    best, which = scores[others[0]].copy(), np.full(scores.shape[1], others[0])
    for other in others[1:]:
        which[scores[other] > best] = other
        np.maximum(best, scores[other], out=best)
    return which, best


def _judged(net: Cascade, packs: Packs, positions: int) -> tuple[F32, NDArray[np.int64]]:
    """Logits (classes, M) without the prior, and the labels (M,) at the middles of their cells."""
    random, each = np.random.default_rng(0), -(-positions // len(packs))
    middle, block = TARGET_STRIDE // 2, net.config.block_px
    scores, labels = [], []
    for picture, label in (packs[index] for index in range(len(packs))):
        planes = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float()
        height, width = label.shape
        edges = (0, -width % block, 0, -height % block)
        with torch.no_grad():
            logits = net(F.pad(planes, edges, mode="replicate")).logits[-1] - net.prior
        truth = label[middle::TARGET_STRIDE, middle::TARGET_STRIDE]
        found = logits[0, :, : truth.shape[0], : truth.shape[1]].permute(1, 2, 0).numpy()
        judged = np.flatnonzero(truth != IGNORE)
        taken = random.permutation(judged)[:each]
        scores.append(found.reshape(-1, packs.classes)[taken])
        labels.append(truth.reshape(-1)[taken].astype(np.int64))
    return np.ascontiguousarray(np.concatenate(scores).T), np.concatenate(labels)


def _miou(found: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> float:
    """Mean over the classes that are anywhere."""
    confusion = np.bincount(truth * classes + found, minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    right = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    return float((right[either > 0] / either[either > 0]).mean())
