"""`minibert average`. What a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.export import OutputOption
from ray_jobs.cli.shared import QuietOption

app = typer.Typer(rich_markup_mode=None)

BundlesArgument = Annotated[
    list[str],
    typer.Argument(metavar="BUNDLES...", help="Two bundles or more: EXPERIMENT/STAGE, their directories, or URIs."),
]


@app.command()
def average(bundles: BundlesArgument, output: OutputOption, quiet: QuietOption = False) -> None:
    """Make a bundle of the mean of several bundles' weights. They have one encoder's shapes, one tokenizer and the
    same heads: seeds of one stage, say, or its trials."""
    from ray_jobs.bundles.average import average_bundles
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet) as screen:
        average_bundles(bundles, output, screen)
