"""Turn the wish for a hardware decoder into PyAV's setting for it; in the decode process.

Knows no source. A wish that can't be met is a warning, and decoding goes on in software.
"""

from __future__ import annotations

import logging
from pathlib import Path

import av
from av.codec import hwaccel

from streamer.errors import ConfigError

log = logging.getLogger(__name__)

# In order of preference for "auto"; and what must exist for the device to be there.
DEVICE_FILES = {
    "cuda": ("/dev/nvidia0", "/dev/nvhost-nvdec", "/dev/nvmap"),
    "vaapi": ("/dev/dri/renderD128",),
    "qsv": ("/dev/dri/renderD128",),
    "drm": ("/dev/dri/renderD128",),
    "amf": ("/dev/kfd",),
    "vulkan": ("/dev/dri/renderD128",),
}
_PREFERENCE = ("cuda", "vaapi", "qsv")


def choose_hwaccel(wish: str, source: str) -> hwaccel.HWAccel | None:
    """Give the accelerator to open a source with, or None for software.

    Raises:
        ConfigError: the wish is no kind of device.
    """
    if wish == "none":
        return None
    if wish != "auto" and wish not in DEVICE_FILES:
        raise ConfigError(
            f"{source}: hwaccel must be none, auto or one of {', '.join(DEVICE_FILES)}, "
            f"got {wish!r}"
        )
    for kind in _PREFERENCE if wish == "auto" else (wish,):
        reason = why_not(kind)
        if reason is None:
            return hwaccel.HWAccel(device_type=kind, allow_software_fallback=True)
        level = logging.DEBUG if wish == "auto" else logging.WARNING
        log.log(level, "%s: no %s decoding: %s; decoding in software", source, kind, reason)
    return None


def why_not(kind: str) -> str | None:
    """Say why a kind of device can't be used here; None if nothing speaks against it."""
    if kind not in hwaccel.hwdevices_available():
        return "this libav build lacks it"
    if not any(Path(name).exists() for name in DEVICE_FILES[kind]):
        return f"no device ({' or '.join(DEVICE_FILES[kind])})"
    return None


def decoder_devices(codec: str) -> tuple[str, ...]:
    """Name the kinds of devices that this build can decode a codec on."""
    configs = av.Codec(codec, "r").hardware_configs or ()
    return tuple(
        sorted({str(config.device_type.name) for config in configs if config.is_supported})
    )
