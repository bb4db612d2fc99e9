"""`minibert evaluate`, `data check`, `report` and `doctor`. What a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.errors import UserError
from ray_jobs.cli.shared import USER_ERROR, DataOption, JsonOption, QuietOption, choices, examples

app = typer.Typer(rich_markup_mode=None)
data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at data before training on it.",
    epilog=examples("minibert data check demo"),
)
app.add_typer(data_app, name="data")


EVALUATE_EXAMPLES = examples(
    "minibert evaluate runs/demo/sst",
    "minibert evaluate runs/demo/sst runs/demo/sts --clean",
)


@app.command(epilog=EVALUATE_EXAMPLES)
def evaluate(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...",
            help="A bundle: EXPERIMENT/STAGE (runs/demo/sst), its directory, or URI. Several: each against the first.",
        ),
    ],
    data: DataOption = None,
    split: Annotated[
        str, typer.Option(help="train, dev, or test with labels.", autocompletion=choices("train", "dev", "test"))
    ] = "dev",
    clean: Annotated[
        bool, typer.Option("--clean", help="Also without the rows of which a text is in a training file.")
    ] = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="Also each class's precision, recall and F1, and what it is taken for.")
    ] = False,
    rows: Annotated[
        str | None, typer.Option(help="A CSV for the rows of which one of two bundles is right, the other wrong.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a bundle exactly, or compare several. With 95 % bootstrap intervals; of several, those of paired
    differences from the first."""
    from ray_jobs.bundles.comparing import compare_bundles
    from ray_jobs.bundles.scoring import evaluate_bundle
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        if classes and (len(bundles) > 1 or rows):
            raise UserError("--classes: of one bundle; without it, several are compared")
        if len(bundles) > 1 or rows:
            compare_bundles(bundles, data, split, screen, clean=clean, rows=rows)
        else:
            evaluate_bundle(bundles[0], data, split, screen, clean=clean, classes=classes)


@data_app.command("check", epilog=examples("minibert data check demo", "minibert data check DATA --leaks"))
def data_check(
    uri: Annotated[str, typer.Argument(help="A directory, its URI, a map (YAML), or a recipe.")],
    data: DataOption = None,
    leaks: Annotated[
        bool, typer.Option("--leaks", help="Instead: texts that files of train, dev and test share.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What a data directory holds. Counts, label balance, lengths and quarantined rows; exit status 2 where nothing
    could be trained on a file."""
    from multitask.recipe.data_check import check_data, render
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        if leaks:
            from ray_jobs.cli.leaks import show_leaks

            show_leaks(uri, data, screen)
            return
        reports = check_data(uri, data)
        if as_json:
            screen.document([report.to_json() for report in reports])
        else:
            screen.say(render(reports))
    if any(report.fault for report in reports):
        raise typer.Exit(USER_ERROR)


@data_app.command("show", epilog=examples("minibert data show demo --task sst --split train"))
def data_show(
    uri: Annotated[str, typer.Argument(help="A directory, its URI, a map (YAML), or a recipe.")],
    data: DataOption = None,
    task: Annotated[str | None, typer.Option(help="One task alone.")] = None,
    split: Annotated[
        str | None, typer.Option(help="train, dev or test alone.", autocompletion=choices("train", "dev", "test"))
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look into data files. Balance, lengths, repeated rows, and some of each label."""
    from multitask.recipe.data_show import render_looks, show_data
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        looks = show_data(uri, data, task, split)
        if as_json:
            screen.document([look.to_json() for look in looks])
        else:
            screen.say(render_looks(looks))


@app.command(epilog=examples("minibert report runs/demo", "minibert report runs/demo --price 2.5"))
def report(
    experiment: Annotated[
        str, typer.Argument(help="An experiment's folder or URI, <storage>/<experiment>; or an ensemble's.")
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="EXPERIMENT", help="Another one: scores, settings and time of both."),
    ] = None,
    price: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="What a worker costs in an hour: the report says what all did.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write an experiment's report.html and report.md. Or an ensemble's. Tables, curves, what each stage cost the
    other tasks, what all of it took."""
    from functools import partial

    from multitask.report import report_of, save_report
    from multitask.report.against import Baseline
    from ray_jobs.bundles.comparing import compared_on_dev
    from ray_jobs.options import hourly_price
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        hourly = None if price is None else hourly_price(price)
        baseline = Baseline(against, partial(compared_on_dev, screen=screen)) if against else None
        found = report_of(experiment, hourly, baseline)
        places = save_report(experiment, found)
        if as_json:
            screen.document({"reports": places, **found.document})
            return
        screen.say("\n".join(f"report: {place}" for place in places))
        if "Cost" in (facts := dict(found.facts)):
            screen.say(f"cost:   {facts['Cost']}")


@app.command(epilog=examples("minibert track runs/demo --to mlflow"))
def track(
    experiment: Annotated[str, typer.Argument(help="An experiment's folder or URI, <storage>/<experiment>.")],
    to: Annotated[
        list[str], typer.Option(help="mlflow, or wandb; repeatable.", autocompletion=choices("mlflow", "wandb"))
    ],
    as_json: JsonOption = False,
) -> None:
    """Send an experiment to MLflow or Weights & Biases. What is there already is not sent again."""
    from multitask.experiment.lease import Lease
    from multitask.report.reading import read_evidence
    from multitask.storage.storage import Storage
    from multitask.storage.uris import shown
    from ray_jobs.screen import Screen
    from ray_jobs.trackers.mirror import Mirror, tracker_of

    with Screen(as_json=as_json) as screen:
        folder = Storage(experiment)
        read_evidence(folder)  # says what is wrong with an experiment, in a line
        trackers = [tracker_of(kind, folder) for kind in to]
        with Lease(folder, screen.say):  # a driver that is at work sends by itself
            sent = Mirror(folder, trackers).send(to_the_end=True)
        screen.say(f"{'sent' if sent else 'not all sent'}: {shown(folder.uri)}, to {', '.join(to)}")
        if as_json:
            screen.document({"experiment": folder.uri, "to": to, "sent": sent})
    if not sent:
        raise typer.Exit(1)


@app.command(epilog=examples("minibert doctor --storage ./runs"))
def doctor(
    storage: Annotated[str | None, typer.Option(help="The directory or URI that a run would be given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine and a storage are fit for. A line each; exit status 2 where something will not work."""
    from ray_jobs.doctor import examine
    from ray_jobs.screen import Screen

    findings = []
    with Screen(as_json=as_json) as screen:
        for finding in examine(storage):
            findings.append(finding)
            screen.say(finding.line())
        if as_json:
            screen.document([vars(finding) for finding in findings])
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(USER_ERROR)
