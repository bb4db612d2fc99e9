"""`minibert schema`: the form of what a command prints with --json. What the command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.errors import UserError, near
from ray_jobs.cli.shared import examples

app = typer.Typer(rich_markup_mode=None)


def _commands(incomplete: str) -> list[str]:
    from ray_jobs.cli.documents import DOCUMENTS

    return [word for name in DOCUMENTS for word in name.split()[:1] if word.startswith(incomplete)]


@app.command(epilog=examples("minibert schema evaluate", "minibert schema data check"))
def schema(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="A command that has --json.", autocompletion=_commands)
    ],
) -> None:
    """Print the JSON Schema of what a command prints with --json."""
    from ray_jobs.cli.documents import DOCUMENTS, schema_of
    from ray_jobs.screen import Screen

    name = " ".join(command)
    if name not in DOCUMENTS:
        raise UserError(f"schema '{name}': valid: {', '.join(DOCUMENTS)}{near(name, DOCUMENTS)}")
    with Screen(as_json=True) as screen:
        screen.document(schema_of(name))
