"""Draw on YUV planes in place, as arrays say; runs in the encode process."""

from streamer.overlay.colours import PALETTE, colour_of
from streamer.overlay.draw import Overlay
from streamer.overlay.labelmap import draw_label_map
from streamer.overlay.letterbox import letterbox
from streamer.overlay.trails import Trails

__all__ = ["PALETTE", "Overlay", "Trails", "colour_of", "draw_label_map", "letterbox"]
