"""A small HTTP server on this machine whose connections can break, for the download tests."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Site:
    """What the server holds and how it misbehaves."""

    files: dict[str, bytes]
    address: str = ""
    break_after: int | None = None  # bytes a connection carries before it breaks
    ranges: bool = True
    refusals: list[int] = field(default_factory=list)  # answers before the first good one
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Site]:
    """Serve ``files``, by path, on this machine."""
    site = Site(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append((self.path, wanted))
            if site.refusals:
                return self.send_error(site.refusals.pop(0))
            if self.path not in site.files:
                return self.send_error(404)
            content, start = site.files[self.path], 0
            if wanted and site.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    return self.send_error(416)
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = len(content) if site.break_after is None else start + site.break_after
            self.wfile.write(content[start:stop])
            self.close_connection = True
            return None

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
