"""A local HTTP server that serves bytes, resumes, cuts connections and lies, as a test tells it to."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What is served, how, and what was asked for."""

    content: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # path -> bytes that one connection brings before it is cut
    ranges: bool = True
    etag: str = '"one"'
    pause: float = 0.0
    asked: list[tuple[str, int]] = field(default_factory=list)  # path, first byte
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    files: Files

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        files = self.files
        if self.path not in files.content:
            return self.send_error(404)
        whole, start = files.content[self.path], 0
        match = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        if match and files.ranges and self.headers.get("If-Range", files.etag) == files.etag:
            start = int(match[1])
        files.asked.append((self.path, start))
        threading.Event().wait(files.pause)
        if start >= len(whole) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(whole)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(whole) - start))
        self.send_header("ETag", files.etag)
        self.end_headers()
        self.wfile.write(whole[start : start + files.cut.get(self.path, len(whole))])
        self.wfile.flush()
        self.close_connection = True


@contextmanager
def serving(**content: bytes) -> Iterator[Files]:
    """A server on a free port of this machine."""
    files = Files({f"/{name}": value for name, value in content.items()})
    handler = type("Handler", (_Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
