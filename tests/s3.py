"""An S3 endpoint for tests: moto's server behind a small HTTP proxy of ours that fails on demand.

`python -m tests.s3 --port 9000 --bucket runs` serves until it is ended; `POST /__fault` with JSON sets what fails:
{"kind": "slow down", "seconds": 30}, {"kind": "some", "share": 0.1, "seed": 1}, {"kind": "refuse writes"},
{"kind": "drop"}, {"kind": "hang", "pause": 5, "times": 1}, {"kind": "none"}; "path": "..." restricts any of them to
requests whose path holds that.
`GET /__fault` says how many requests were passed on, by method, and how many failed, by the way they did.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BLOCK = 1 << 16
CONTROL = "/__fault"
WRITES = {"PUT", "POST", "DELETE"}
# How one of many requests fails: answers that are errors, a connection lost before and after the server had it all,
# and a body that ends in the middle.
WAYS = ("InternalError", "SlowDown", "drop", "lose the answer", "truncate")
LATE = "late"  # one more: the answer comes after `pause` seconds
KINDS = {"none": None, "slow down": "SlowDown", "refuse writes": "AccessDenied", "drop": "drop", "hang": "hang"}
ERRORS = {
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "AccessDenied": (403, "Access Denied"),
}
HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}  # of one connection, not of the message


@dataclass
class Fault:
    """What fails: for `seconds` and `times` requests, or until another is set, where the path holds `path`.

    share: of requests, drawn by `seed`, each in one of the ways. pause: seconds for which a request hangs before its
    connection is dropped, or its late answer comes.
    """

    kind: str = "none"
    path: str = ""
    times: float = float("inf")
    pause: float = 5.0
    seconds: float = float("inf")
    share: float = 0.1
    seed: int = 0
    ways: Sequence[str] = WAYS
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def way(self, method: str, path: str) -> str | None:
        """How a request fails; None where it does not."""
        if time.monotonic() - self.began > self.seconds or self.path not in path:
            return None
        if self.kind == "refuse writes" and method not in WRITES:
            return None
        with self._lock:
            if self.times <= 0 or (self.kind == "some" and self._random.random() >= self.share):
                return None
            self.times -= 1
            return self._random.choice(self.ways) if self.kind == "some" else KINDS[self.kind]


class Handler(BaseHTTPRequestHandler):
    """Passes one request on, or fails it. `Expect: 100-continue` is answered by http.server itself."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a small answer waits 40 ms for the client's acknowledgement
    server: Proxy

    def do_any(self) -> None:
        body = b"".join(self._body())
        if self.path == CONTROL:
            return self._control(body)
        fault = self.server.fault
        way = fault.way(self.command, self.path)
        self.server.note(self.command, self.path, way)
        if way in ("hang", LATE):
            time.sleep(fault.pause)
            way = "drop" if way == "hang" else None
        if way in ERRORS:
            return self._refuse(way)
        if way == "drop":
            return self._hang_up()
        self._pass_on(body, way)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
        else:
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _pass_on(self, body: bytes, way: str | None) -> None:
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP | {"content-length"}:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            response = upstream.getresponse()
            if way == "lose the answer":
                response.read()
                return self._hang_up()
            self._give(response, way)
        finally:
            upstream.close()

    def _give(self, response: http.client.HTTPResponse, way: str | None) -> None:
        """Streams the answer back; a HEAD's has a length and no body."""
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        length = response.getheader("Content-Length")
        if length is None and self.command != "HEAD":
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        left = int(length or 0) // 2 if way == "truncate" else None
        while block := response.read(BLOCK if left is None else min(BLOCK, left)):
            self.wfile.write(block)
            left = None if left is None else left - len(block)
        if way == "truncate" or length is None:
            self._hang_up()

    def _refuse(self, code: str) -> None:
        status, message = ERRORS[code]
        answer = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self._answer(status, b"" if self.command == "HEAD" else answer, "application/xml")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _control(self, body: bytes) -> None:
        if self.command == "POST":
            self.server.fault = Fault(**json.loads(body))
        self._answer(200, json.dumps(self.server.counts).encode(), "application/json")

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


class Proxy(ThreadingHTTPServer):
    """Between a client and the server at `upstream`; `fault` is what fails now. counts: what came through and what
    failed, by kind; seen: every request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        upstream: tuple[str, int],
        port: int = 0,
        address: str = "127.0.0.1",
        handler: type[BaseHTTPRequestHandler] | None = None,
    ) -> None:
        super().__init__((address, port), handler or Handler)
        self.upstream, self.fault = upstream, Fault()
        self.counts: Counter[str] = Counter()
        self.seen: list[str] = []
        self._lock = threading.Lock()

    def note(self, method: str, path: str, way: str | None) -> None:
        with self._lock:
            self.counts[way or method] += 1
            self.seen.append(f"{method} {path}")

    def failed(self) -> int:
        """How many requests have failed so far."""
        return sum(self.counts[way] for way in {*WAYS, *ERRORS, "hang", LATE})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is nothing to report."""


class S3:
    """moto's server and the proxy before it, in this process; `url` is the endpoint."""

    def __init__(self, port: int = 0, address: str = "127.0.0.1") -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        upstream = self._moto.get_host_and_port()
        self.proxy = Proxy(upstream, port, address)
        threading.Thread(target=self.proxy.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://{address}:{self.proxy.server_port}"
        self._buckets = 0

    def fail(self, kind: str, **settings: Any) -> None:
        self.proxy.fault = Fault(kind, **settings)

    def heal(self) -> None:
        self.fail("none")

    def new_bucket(self) -> None:
        self._buckets += 1
        self.make_bucket(f"bucket-{self._buckets}")

    @property
    def uri(self) -> str:
        """The newest bucket's."""
        return f"s3://bucket-{self._buckets}"

    def make_bucket(self, name: str) -> None:
        connection = http.client.HTTPConnection(*self.proxy.upstream)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()

    @property
    def environment(self) -> dict[str, str]:
        """What s3fs and TensorBoard's reader take from the environment to come here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "S3_ENDPOINT": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "never-shown",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def close(self) -> None:
        self.proxy.shutdown()
        self.proxy.server_close()
        self._moto.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--bucket", default="runs")
    given = parser.parse_args()
    server = S3(given.port, given.address)
    server.make_bucket(given.bucket)
    for name, value in server.environment.items():
        print(f"export {name}={value}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
