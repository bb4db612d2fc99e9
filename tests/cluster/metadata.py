"""A stand-in for a cloud's metadata service on one host: `python metadata.py ADDRESS FILE`.

As EC2's (IMDSv2): a token is to be fetched first, and /latest/meta-data/spot/instance-action is a 404 until there is a
notice. The notice is that file's content, put there by whoever plays the cloud.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "lab-token"
NOTICE = "/latest/meta-data/spot/instance-action"


class Handler(BaseHTTPRequestHandler):
    notice: Path

    def do_PUT(self) -> None:
        """A token, for those who say how long it is to live."""
        known = self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self._answer(200 if known else 400, TOKEN if known else "")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return self._answer(401, "")
        if self.path == NOTICE and self.notice.exists():
            return self._answer(200, self.notice.read_text())
        self._answer(404, "")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """What is asked every few seconds is no news."""


def main() -> None:
    address, file = sys.argv[1:]
    Handler.notice = Path(file)
    ThreadingHTTPServer((address, 80), Handler).serve_forever()


if __name__ == "__main__":
    main()
