"""Whether the Ray cluster that RAY_ADDRESS names can be reached, in seconds: Ray itself tries for minutes."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

VARIABLE = "RAY_ADDRESS"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0
STARTED_HERE = Path("ray") / "ray_current_cluster"  # below the temporary directory: where `ray start` says it is
# HTTP/2, in which Ray's servers speak (RFC 9113, 3.4 and 4.1): a client's first words, an empty SETTINGS frame last. A
# server's own first frame is of the same type, its number the fourth byte.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
FRAME_HEADER, SETTINGS = 9, 4


def cluster_address() -> str | None:
    """The cluster's address as RAY_ADDRESS has it; None where a run starts a Ray of its own."""
    given = os.environ.get(VARIABLE, "")
    return None if given in ("", "local") else given


def started_here() -> str | None:
    """The address of the cluster that `ray start` has started on this machine, as far as a file says so."""
    file = Path(tempfile.gettempdir()) / STARTED_HERE
    return file.read_text().strip() if file.is_file() else None


def unreachable(address: str) -> str | None:
    """Says why no Ray can be reached at HOST:PORT or ray://HOST:PORT, within 20 s; None where one answers."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:
        host, port = None, None
    if not host or not port or place.scheme not in ("", "ray"):
        return "not an address; valid: HOST:PORT, auto, local"
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
            encrypted = os.environ.get("RAY_USE_TLS", "0") == "1"
            frame = None if encrypted else _first_frame(connection)
    except TimeoutError:
        return f"{host}:{port} does not answer: is it Ray's port, is Ray up (ray status)?"
    except OSError as error:
        return f"no connection to {host}:{port} ({error}): is it up (ray status), is the port open?"
    if frame is not None and (len(frame) < FRAME_HEADER or frame[3] != SETTINGS):
        return f"what answers at {host}:{port} is no Ray"
    return None


def _first_frame(connection: socket.socket) -> bytes:
    """A server's first bytes; fewer than a frame's header where it ends the connection. Raises OSError."""
    until, frame = time.monotonic() + ANSWER_SECONDS, b""
    connection.sendall(HELLO)
    while len(frame) < FRAME_HEADER:
        connection.settimeout(max(0.001, until - time.monotonic()))
        if not (more := connection.recv(FRAME_HEADER - len(frame))):
            break
        frame += more
    return frame
