"""Whether a Ray cluster and the Hugging Face hub answer."""

from __future__ import annotations

import urllib.error
import urllib.request

from ray_jobs.doctor.diagnosis import Diagnosis, within
from ray_jobs.runners.address import cluster_address, started_here, unreachable

HUB_SECONDS = 5.0


def check_ray() -> Diagnosis:
    """Whether the cluster that RAY_ADDRESS names can be reached; without an address, a run starts a Ray of its own."""
    given = cluster_address()
    if given is None:
        return Diagnosis("ok", "ray", "RAY_ADDRESS is not set: a local Ray is started for --workers N and ends with it")
    address = started_here() if given == "auto" else given
    if address is None:
        return Diagnosis("problem", "ray", "RAY_ADDRESS=auto, and no Ray runs here: ray start --head, or unset it")
    if why := unreachable(address):
        return Diagnosis("problem", "ray", f"RAY_ADDRESS={given}: {why}")
    return Diagnosis("ok", "ray", f"RAY_ADDRESS={given}: {address} answers")


def check_hub() -> Diagnosis:
    """Whether the Hugging Face hub answers, which hub ids, hf:// and --push need; everything else goes without."""
    from huggingface_hub import constants, get_token

    endpoint, token = constants.ENDPOINT, "a token is there" if get_token() else "no token (HF_TOKEN), for public ones"
    what = "hub ids, hf:// and --push"
    if constants.HF_HUB_OFFLINE:
        return Diagnosis("note", "hub", f"HF_HUB_OFFLINE is set: {what} will not work")
    try:
        within(HUB_SECONDS, lambda: _reach(endpoint))
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError, and has no words
        reason = getattr(error, "reason", None) or str(error) or f"nothing within {HUB_SECONDS:g} s"
        return Diagnosis("note", "hub", f"{endpoint} does not answer: {what} will not work: {reason}")
    return Diagnosis("ok", "hub", f"{endpoint} answers; {token}")


def _reach(endpoint: str) -> None:
    """Asks the server, through the proxies of the environment; whatever it says, it is there. Raises OSError."""
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
