"""Start, freeze and kill a real RTSP server for the tests of sources."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from conftest import missing

PYTHON = "/usr/bin/python3"  # the one that the distribution's GStreamer is made for
PROGRAM = Path(__file__).with_name("rtsp_server.py")
PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
)


class RtspServer:
    """One server process at rtsp://127.0.0.1:<port>/stream; a context manager."""

    def __init__(self, clip: Path, *, port: int | None = None, login: str | None = None) -> None:
        """Prepare a server.

        Args:
            clip: H.264, raw or in MP4.
            port: that of a server that was stopped, or None for a free one.
            login: user:password that it asks for.
        """
        self.port = port or _free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/stream"
        self._command = [PYTHON, str(PROGRAM), str(clip), "--port", str(self.port)]
        if login:
            user, _, password = login.partition(":")
            self._command += ["--user", user, "--password", password]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RtspServer:
        reason = why_missing()
        if reason:
            missing(reason)
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "READY\n"
        return self

    def freeze(self) -> None:
        """Stop it in mid-stream; its sockets stay open and silent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; its sockets are closed by the kernel."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


@functools.cache
def why_missing() -> str | None:
    """Say what the server needs and this machine lacks."""
    script = "import rtsp_server as s; s.Gst.init(None); s.check_elements()"
    try:
        done = subprocess.run(
            [PYTHON, "-c", script], cwd=PROGRAM.parent, capture_output=True, text=True, timeout=30
        )
    except FileNotFoundError:
        return f"no {PYTHON}, so no RTSP server"
    if done.returncode == 0:
        return None
    return f"no RTSP server ({done.stderr.strip().splitlines()[-1]}); install {PACKAGES}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
