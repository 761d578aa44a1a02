"""Turn an error of libav into a SourceError with a reason word; runs in the decode process.

libav puts the address, password included, into its texts; so they are never passed on or chained.
"""

from __future__ import annotations

import av.error

from streamer.errors import SourceError
from streamer.sources.redact import redact

# Which class of error has which reason, whether another try is in vain, and what to do about it.
_CAUSES: tuple[tuple[type[Exception], str, bool, str], ...] = (
    (av.error.HTTPUnauthorizedError, "auth", True, "check user and password"),
    (av.error.HTTPForbiddenError, "auth", True, "check user, password and rights"),
    # A media server answers 404 until its publisher is there, so this may pass.
    (av.error.HTTPNotFoundError, "not_found", False, "check the path after the host name"),
    (av.error.PermissionError, "auth", True, "check the rights of the file or device"),
    (av.error.ConnectionRefusedError, "refused", False, "check host and port, and that it runs"),
    (av.error.TimeoutError, "timeout", False, "check that the host is up and reachable"),
    (av.error.ExitError, "timeout", False, "check that the host is up, or raise the deadline"),
    (av.error.DecoderNotFoundError, "codec", True, "re-encode as H.264"),
    (av.error.ProtocolNotFoundError, "codec", True, "this libav build lacks the protocol"),
    (av.error.PatchWelcomeError, "codec", True, "re-encode as H.264"),
    (av.error.NotImplementedError, "codec", True, "re-encode as H.264"),
)


def fault(uri: str, doing: str, error: Exception, *, remote: bool) -> SourceError:
    """Say in one text what libav could not do.

    Args:
        uri: may hold a password; it is redacted here.
        doing: "open" or "read"; a deadline missed in reading is "stalled", not "timeout".
        error: what libav raised; raise the result `from None`, for this text may hold a password.
        remote: a network or a device, so that a missing file or bad data may pass.
    """
    reason, permanent, remedy = _classify(error, remote)
    if doing == "read" and reason == "timeout":
        reason, remedy = "stalled", "no data within the deadline; is the camera alive?"
    what = getattr(error, "strerror", None) or type(error).__name__
    return SourceError(
        redact(f"{uri}: can't {doing}: {what}; {remedy}"), reason=reason, permanent=permanent
    )


def _classify(error: Exception, remote: bool) -> tuple[str, bool, str]:
    for cause, reason, permanent, remedy in _CAUSES:
        if isinstance(error, cause):
            return reason, permanent, remedy
    if isinstance(error, av.error.FileNotFoundError):
        return "not_found", not remote, "check the path or the device"
    if isinstance(error, av.error.InvalidDataError):
        return "corrupt", not remote, "it is no video that is known, or it is damaged"
    if "tls" in str(error).lower() or "certificate" in str(error).lower():
        return "tls", True, "check the certificate of the host"
    return (
        "io",
        False,
        "check the host name, the network or the device" if remote else "check the disk",
    )
