"""Turn an error of libav into a SourceError with a reason word; runs in the decode process.

libav puts the address, password included, into its texts: so no error of it is passed on or
chained, and what it logs goes nowhere but, redacted, into the error that follows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import av.error
import av.logging

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
    (av.error.TimeoutError, "timeout", False, "check that the host is up"),
    (av.error.ExitError, "timeout", False, "check that the host is up"),
    (av.error.DecoderNotFoundError, "codec", True, "re-encode as H.264"),
    (av.error.PatchWelcomeError, "codec", True, "re-encode as H.264"),
    (av.error.NotImplementedError, "codec", True, "re-encode as H.264"),
    (av.error.ProtocolNotFoundError, "codec", True, "this libav lacks the protocol"),
)
_TLS_LOGGERS = ("tls", "https", "rtsps")

_libav_log = logging.getLogger("libav")
_libav_log.addHandler(logging.NullHandler())
_libav_log.propagate = False  # it would print addresses with their passwords


@contextmanager
def libav_details() -> Iterator[None]:
    """Let libav hang its last log line on the errors that it raises inside this block."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture():
            yield
    finally:
        av.logging.set_level(level)


def fault(
    uri: str, doing: str, error: Exception, *, remote: bool, overdue_s: float | None = None
) -> SourceError:
    """Say in one text what libav could not do.

    Args:
        uri: may hold a password; it is redacted here.
        doing: "open" or "read"; a deadline missed in reading is "stalled", not "timeout".
        error: what libav raised; raise the result `from None`, for this text may hold a password.
        remote: a network or a device, so that a missing file or bad data may pass.
        overdue_s: the deadline, if it had passed; libav has many words for being interrupted.
    """
    what = getattr(error, "strerror", None) or type(error).__name__
    if overdue_s is not None:
        what, reason, permanent = f"no answer within {overdue_s:g} s", "timeout", False
        remedy = "check that the host is up, or raise the deadline"
    else:
        reason, permanent, remedy = _classify(error, remote)
        if reason == "io" or "Input/output" in what:
            what = _logged(error)[1] or what
    if doing == "read" and reason == "timeout":
        reason, remedy = "stalled", "no more data came; is the camera alive?"
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
    logger, line = _logged(error)
    if logger in _TLS_LOGGERS:
        return "tls", False, "check that the port speaks TLS, and the certificate"
    if "resolve hostname" in line:
        return "not_found", False, "check the host name"
    return "io", False, "check the network or the device" if remote else "check the disk"


def _logged(error: Exception) -> tuple[str, str]:
    """Who in libav logged what last before the error, if anybody did."""
    entry = getattr(error, "log", None)
    return (str(entry[1]), str(entry[2]).strip()) if entry else ("", "")
