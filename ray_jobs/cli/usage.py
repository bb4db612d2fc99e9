"""What is wrong with the words of a command line, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from multitask.errors import UserError

UsageError: Any = typer.BadParameter.__mro__[1]  # for which typer has no public name
INVALID = "Invalid value"


class Program(TyperGroup):
    """All commands. Words that none of them takes are a UserError, so one line says what is wrong, and not four."""

    def make_context(self, *words: Any, **settings: Any) -> Any:
        with in_one_line("minibert"):
            return super().make_context(*words, **settings)

    def invoke(self, ctx: Any) -> Any:
        with in_one_line(ctx.command_path, ctx):
            return super().invoke(ctx)


@contextmanager
def in_one_line(command: str, context: Any = None) -> Iterator[None]:
    """Turns typer's usage errors into UserErrors. command: whose --help is named where an error says nothing of it."""
    try:
        yield
    except UsageError as error:
        if "\n" in error.message:
            raise  # the help itself, where there were no words
        if error.ctx:
            command = error.ctx.command_path
        elif context and context.invoked_subcommand:
            command = f"{command} {context.invoked_subcommand}"
        where = command.removeprefix("minibert").strip()
        message = f"{where}: {_message(error)}" if where else _message(error)
        raise UserError(f"{message} (see {command} --help)") from None


def _message(error: Any) -> str:
    """What typer says, with the value that it was given."""
    said = error.format_message().rstrip(".")
    if not said.startswith(INVALID) or not hasattr(error.__cause__, "errors"):
        return said
    return f"{INVALID} '{error.__cause__.errors()[0]['input']}'{said.removeprefix(INVALID)}"
