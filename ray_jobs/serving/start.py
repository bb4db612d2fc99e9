"""Where a service listens, who may ask it, and how it starts and ends: in this process, or on Ray Serve."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from multitask.errors import UserError
from ray_jobs.options import Workers
from ray_jobs.runners.cluster import Cluster
from ray_jobs.screen import Screen
from ray_jobs.serving.gate import CALLBACK, DEFAULT_PER_CLIENT, PER_CLIENT, TOKEN

TOKEN_CHARS = 16  # at least
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEEP_ALIVE_SECONDS = 30  # that a connection may be silent between two requests
ENVIRONMENT = {  # read when Ray is imported, here and in the processes that it starts
    # Whatever --host is, Ray's own ports listen on all interfaces: they want a token that Ray makes.
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": CALLBACK,
    # The models have a thread of their own. Without Ray's two more a request costs a third less of CPU beside them.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "OMP_WAIT_POLICY": "passive",  # threads that spin take the cores from those that answer
}


@dataclass(frozen=True)
class Listening:
    """Where a service is to be found, and what one client may ask of it at once."""

    host: str
    port: int
    per_client: int = DEFAULT_PER_CLIENT
    """Requests of one address that may be in progress."""

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def check(self) -> str | None:
        """The token that requests must bring, None where only this machine is answered. Raises UserError for a host
        that wants one and has none, and for a port in use."""
        token = wanted_token(self.host)
        check_port(self.host, self.port)
        return token


def run_on_ray(application: Any, name: str, listening: Listening, loading: str, screen: Screen) -> None:
    """Runs Ray Serve's application, on a Ray of its own, until Ctrl-C or SIGTERM. loading: what is said meanwhile.

    `prepare_ray` has been called before Ray was imported.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    with Cluster(Workers(), screen):  # its end is Serve's too
        listen = {"host": listening.host, "port": listening.port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
        serve.start(proxy_location="HeadOnly", http_options=listen, logging_config=quiet)
        screen.note(loading)
        serve.run(application, name=name, logging_config=quiet)
        with signals() as stop:
            screen.say(ready(listening))
            stop.wait()
        screen.say("stopping ...")


def prepare_ray(command: str, listening: Listening) -> None:
    """Sets what Ray reads when it is imported. Raises UserError where another Ray is meant by the environment."""
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        raise UserError(f"RAY_ADDRESS: set; `{command}` is for this machine, with a Ray of its own: unset it")
    os.environ.update({**ENVIRONMENT, PER_CLIENT: str(listening.per_client)})


def ready(listening: Listening) -> str:
    """What is said once requests are answered."""
    return f"{listening.url}  (API: /docs; Ctrl-C ends it)"


@contextmanager
def signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, within the context; behind it they do what they did before."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wanted_token(host: str) -> str | None:
    """The environment's token. Raises UserError where a host that others reach has none, and for one easily guessed."""
    token = os.environ.get(TOKEN)
    if not token:
        if host not in LOOPBACK:
            raise UserError(
                f"--host '{host}': others can reach it, so it wants a token: set {TOKEN} in the environment, "
                f"or serve on {LOOPBACK[0]}"
            )
        return None
    if not re.fullmatch(rf"[!-~]{{{TOKEN_CHARS},}}", token):
        raise UserError(f"{TOKEN}: cannot be one; valid: {TOKEN_CHARS} printable ASCII characters or more, no blanks")
    return token


def check_port(host: str, port: int) -> None:
    """Raises UserError where nothing can listen there."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise UserError(f"--host '{host}' --port {port}: cannot listen there: {error.strerror}") from error
