"""`minibert new` and `minibert check`: a project of one's own. What a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.shared import USER_ERROR, JsonOption, examples

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=examples("minibert check mine:Margin"))
def check(
    path: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="What a recipe names: a head, a loss, ...")],
    as_json: JsonOption = False,
) -> None:
    """Try a head, loss, measure, objective or sampler of your own. That two ranks equal one, say; status 2 if not."""
    from multitask.recipe.own_check import check_own, summary
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        found = check_own(path)
        for one in found:
            screen.say(one.line())
        if as_json:
            screen.document(summary(found))
    if not all(one.kept for one in found):
        raise typer.Exit(USER_ERROR)


@app.command(epilog=examples("minibert new my && cd my && minibert train recipe.yaml"))
def new(
    folder: Annotated[str, typer.Argument(help="A folder that is not there yet; its name is the recipe's.")],
    as_json: JsonOption = False,
) -> None:
    """Make a project folder. A recipe, a few rows of data and a README, which train at once; then put in your own."""
    from multitask.recipe.project import make_project
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        found = make_project(folder)
        screen.say(f"{folder}: {', '.join(found)}\nnext: cd {folder} && minibert train recipe.yaml")
        if as_json:
            screen.document({"folder": folder, "files": found})
