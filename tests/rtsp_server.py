"""Serve a video file in a loop at rtsp://127.0.0.1:<port>/stream, as a camera would; for tests.

Runs under the system's python3, which has GStreamer; knows nothing of the package under test.
Prints READY when it listens. SIGTERM ends it, SIGSTOP freezes it in mid-stream.
"""

from __future__ import annotations

import argparse
import signal
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

ELEMENTS = ("qtdemux", "h264parse", "rtph264pay", "appsrc", "appsink")
PIPELINE = (
    "( appsrc name=pictures is-live=true format=time ! h264parse ! "
    "rtph264pay name=pay0 pt=96 config-interval=1 )"
)


def main() -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="H.264 as raw stream or in MP4; it is repeated for ever")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fps", type=int, default=25, help="of a raw stream")
    parser.add_argument("--user", help="with --password: ask for basic authentication")
    parser.add_argument("--password")
    arguments = parser.parse_args()

    Gst.init(None)
    pictures = read_pictures(arguments.file, arguments.fps)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(str(arguments.port))
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(PIPELINE)
    factory.set_shared(True)
    factory.connect("media-configure", lambda _, media: Pump(media, pictures))
    if arguments.user:
        require_password(server, factory, arguments.user, arguments.password)
    server.get_mount_points().add_factory("/stream", factory)
    if server.attach(None) == 0:
        print(f"port {arguments.port} is taken", file=sys.stderr)
        return 1

    loop = GLib.MainLoop()
    GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGTERM, loop.quit)
    print("READY", flush=True)
    loop.run()
    return 0


def check_elements() -> None:
    """Say which element of GStreamer is not installed."""
    for name in ELEMENTS:
        if Gst.ElementFactory.find(name) is None:
            raise SystemExit(f"no GStreamer element {name}")


def read_pictures(file: str, fps: int) -> list[Gst.Buffer]:
    """Cut a file into its access units, each with its time."""
    reader = Gst.parse_launch(
        f"filesrc location={file} ! {'qtdemux' if file.endswith('.mp4') else 'identity'} ! "
        "h264parse ! video/x-h264,stream-format=byte-stream,alignment=au ! "
        "appsink name=sink sync=false max-buffers=0"
    )
    sink = reader.get_by_name("sink")
    reader.set_state(Gst.State.PLAYING)
    pictures = []
    while (sample := sink.emit("pull-sample")) is not None:
        pictures.append(sample.get_buffer().copy_deep())
    reader.set_state(Gst.State.NULL)
    if not file.endswith(".mp4"):
        for index, picture in enumerate(pictures):
            picture.pts = picture.dts = index * Gst.SECOND // fps
            picture.duration = Gst.SECOND // fps
    return pictures


class Pump:
    """Feeds one media with the pictures of a file, each at its time, over and over."""

    def __init__(self, media: GstRtspServer.RTSPMedia, pictures: list[Gst.Buffer]) -> None:
        self._source = media.get_element().get_by_name("pictures")
        self._source.set_caps(
            Gst.Caps.from_string("video/x-h264,stream-format=byte-stream,alignment=au")
        )
        self._pictures = pictures
        self._step = pictures[0].duration
        self._sent = 0
        self._timer = GLib.timeout_add(self._step // Gst.MSECOND, self._push)
        media.connect("unprepared", self._stop)

    def _push(self) -> bool:
        rounds, index = divmod(self._sent, len(self._pictures))
        picture = self._pictures[index].copy_deep()
        shift = rounds * len(self._pictures) * self._step
        picture.pts += shift
        picture.dts += shift
        # Refused until the media is ready; a camera doesn't wait either.
        self._source.emit("push-buffer", picture)
        self._sent += 1
        return True

    def _stop(self, _media: GstRtspServer.RTSPMedia) -> None:
        if self._timer:
            GLib.source_remove(self._timer)
        self._timer = 0


def require_password(
    server: GstRtspServer.RTSPServer,
    factory: GstRtspServer.RTSPMediaFactory,
    user: str,
    password: str,
) -> None:
    """Let in only who says the user and the password."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    basic = GstRtspServer.RTSPAuth.make_basic(user, password)
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(basic, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)


if __name__ == "__main__":
    sys.exit(main())
