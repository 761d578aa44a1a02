"""A web server that keeps what is posted to it in a file; killed and started again by tests.

Arguments: port, file. Each request becomes one JSON line with its headers and body, on the disk
before it is acknowledged. A path such as /answer/429 says what the answer is.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    file: Path

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        line = {"path": self.path, "headers": dict(self.headers), "body": body.decode()}
        with self.file.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
        status = self.answer(body)
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def answer(self, body: bytes) -> int:
        if b"poison" in body:
            return 422
        return int(self.path.rpartition("/answer/")[2]) if "/answer/" in self.path else 200

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    Handler.file = Path(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    print(f"ready {os.getpid()}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
