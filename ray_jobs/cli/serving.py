"""`minibert serve`: a bundle over HTTP. What the command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.shared import EncoderArgument, HostOption, PerClientOption, PortOption, examples

app = typer.Typer(rich_markup_mode=None)

EXAMPLES = examples(
    "minibert serve runs/demo/sst",
    """curl -s localhost:8000/embed -d '{"texts": ["A warm film."]}' \\
    -H 'Content-Type: application/json'""",
)


@app.command(epilog=EXAMPLES)
def serve(
    bundle: EncoderArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    replicas: Annotated[
        int, typer.Option(min=0, help="0: this process. N: on Ray Serve, where one that dies is replaced.")
    ] = 0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds until a request is given up.")] = 30.0,
    per_client: PerClientOption = 64,
) -> None:
    """Serve a bundle over HTTP: vectors, labels, similarities."""
    from ray_jobs.screen import Screen
    from ray_jobs.serving.bundle import serve_bundle
    from ray_jobs.serving.start import Listening

    with Screen(timed=False) as screen:
        serve_bundle(bundle, Listening(host, port, per_client), replicas, deadline, screen)
