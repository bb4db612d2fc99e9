"""`minibert average`, `ensemble` and `calibrate`. What a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.export import OutputOption
from ray_jobs.cli.shared import BundleArgument, DataOption, JsonOption, QuietOption, choices, examples

app = typer.Typer(rich_markup_mode=None)

BundlesArgument = Annotated[
    list[str],
    typer.Argument(metavar="BUNDLES...", help="Two bundles or more: EXPERIMENT/STAGE, their directories, or URIs."),
]


@app.command(epilog=examples("minibert average runs/demo/sts runs/demo/sst --output mean"))
def average(
    bundles: BundlesArgument, output: OutputOption, quiet: QuietOption = False, as_json: JsonOption = False
) -> None:
    """Make a bundle of the mean of several bundles' weights. They have one encoder's shapes, one tokenizer and the
    same heads: seeds of one stage, say, or its trials."""
    from ray_jobs.bundles.average import average_bundles
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        average_bundles(bundles, output, screen)


@app.command(epilog=examples("minibert ensemble runs/demo/sts runs/demo/sst --output both"))
def ensemble(
    bundles: BundlesArgument,
    output: OutputOption,
    weights: Annotated[
        str,
        typer.Option(
            help="How much each counts: uniform, or fitted to dev, task by task, and measured by cross-fitting.",
            autocompletion=choices("uniform", "fitted"),
        ),
    ] = "uniform",
    data: DataOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make an ensemble of bundles, which answers as one. It is the mean of their probabilities or scores; evaluate,
    predict, report and load_bundle take it."""
    from ray_jobs.bundles.ensemble import make_ensemble
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        make_ensemble(bundles, output, weights, data, screen)


@app.command(epilog=examples("minibert calibrate runs/demo/sst --output calibrated"))
def calibrate(
    bundle: BundleArgument,
    output: OutputOption,
    data: DataOption = None,
    decide: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK/METRIC",
            help="Also move a head's outputs so that its yes or no is best by this metric: accuracy, "
            "balanced_accuracy, f1, mcc; f1_macro of a multilabel task. Repeatable.",
        ),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle whose probabilities fit dev's labels. Or an ensemble. Each head's outputs are multiplied by one
    number and moved by one for each class; what that gains is measured by cross-fitting."""
    from ray_jobs.bundles.calibrate import calibrate_bundle
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        calibrate_bundle(bundle, output, data, screen, decide or ())
