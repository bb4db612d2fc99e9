"""Whether a Ray cluster and the Hugging Face hub answer."""

from __future__ import annotations

import os
import socket
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from ray_jobs.doctor.finding import Finding, within

RAY_SECONDS = 5.0
HUB_SECONDS = 5.0
RAY_STARTED_HERE = Path("ray") / "ray_current_cluster"  # below the temporary directory: where `ray start` says it is


def check_ray() -> Finding:
    """Whether the cluster that RAY_ADDRESS names can be reached; without one, a run starts its own."""
    given = os.environ.get("RAY_ADDRESS")
    if not given or given == "local":
        return Finding("ok", "ray", "RAY_ADDRESS is not set: a local Ray is started for --workers N and ends with it")
    address = given
    if given == "auto":
        file = Path(tempfile.gettempdir()) / RAY_STARTED_HERE
        if not file.is_file():
            return Finding("problem", "ray", "RAY_ADDRESS=auto, and no Ray runs here: ray start --head, or unset it")
        address = file.read_text().strip()
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:
        host, port = None, None
    if not host or not port or place.scheme not in ("", "ray"):
        return Finding("problem", "ray", f"RAY_ADDRESS={given}: not an address; valid: HOST:PORT, auto, local")
    try:
        socket.create_connection((host, port), RAY_SECONDS).close()
    except OSError as error:
        how = "is it up (ray status), is the port open?"
        return Finding("problem", "ray", f"RAY_ADDRESS={given}: no connection to {host}:{port} ({error}): {how}")
    return Finding("ok", "ray", f"RAY_ADDRESS={given}: {host}:{port} answers")


def check_hub() -> Finding:
    """What hub ids, hf:// and --push need; everything else goes without."""
    from huggingface_hub import constants, get_token

    endpoint, token = constants.ENDPOINT, "a token is there" if get_token() else "no token (HF_TOKEN), for public ones"
    what = "hub ids, hf:// and --push"
    if constants.HF_HUB_OFFLINE:
        return Finding("note", "hub", f"HF_HUB_OFFLINE is set: {what} will not work")
    try:
        within(HUB_SECONDS, lambda: _reach(endpoint))
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError, and has no words
        reason = getattr(error, "reason", None) or str(error) or f"nothing within {HUB_SECONDS:g} s"
        return Finding("note", "hub", f"{endpoint} does not answer: {what} will not work: {reason}")
    return Finding("ok", "hub", f"{endpoint} answers; {token}")


def _reach(endpoint: str) -> None:
    """Through the proxies of the environment. Whatever the server says, it is there."""
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
