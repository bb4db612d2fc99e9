"""`minibert new`: a folder with a recipe and data that trains at once. What the command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog="Example:\n\n  minibert new my && cd my && minibert train recipe.yaml")
def new(
    folder: Annotated[str, typer.Argument(help="A folder that is not there yet; its name is the recipe's.")],
) -> None:
    """Make a project folder. A recipe, a few rows of data and a README, which train at once; then put in your own."""
    from multitask.recipe.project import make_project

    for line in make_project(folder):
        typer.echo(line)
