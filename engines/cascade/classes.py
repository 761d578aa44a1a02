"""Name the classes that a segmenter knows, with their colours; imports numpy alone.

The order is that of CamVid's label pictures: a label is an index into the names.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip

VOID = 11
"""Label of pixels that nobody judged; any label from the number of classes on means the same."""

PALETTE_RGB: NDArray[np.uint8] = np.array(
    [
        (70, 130, 180), (110, 110, 120), (190, 190, 150), (128, 64, 128), (230, 60, 200),
        (60, 140, 40), (220, 200, 0), (160, 110, 90), (20, 60, 200), (230, 30, 50), (240, 130, 20),
    ],
    np.uint8,
)  # fmt: skip
"""(K, 3) colour of each class."""
