"""What --help shows of every command: a screen at most, and an example that is a command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ray_jobs.cli import app

COLUMNS, LINES = 80, 40


def every(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of a command and of all those below it."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from every(below, (*path, name))


PATHS = list(every(get_command(app)))


def helped(path: tuple[str, ...]) -> str:
    return CliRunner().invoke(app, [*path, "--help"], prog_name="minibert", env={"COLUMNS": f"{COLUMNS}"}).output


def examples(path: tuple[str, ...]) -> list[list[str]]:
    """The words of each command that --help ends with, without their first."""
    shown = helped(path).rpartition("Example")[2].partition("\n")[2].replace("\\\n", "")
    lines = [part.strip() for line in shown.splitlines() for part in line.split("&&")]
    return [shlex.split(line)[1:] for line in lines if line.startswith("minibert ")]


def parsed(words: list[str]) -> Any:
    """The context that the words make of the command that they name. Raises for words that it does not take."""
    context = get_command(app).make_context("minibert", list(words))
    while names := [*context._protected_args, *context.args]:
        _, command, rest = context.command.resolve_command(context, names)
        context = command.make_context(command.name, list(rest), parent=context)
    return context


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_fits_a_screen_and_ends_with_examples_of_the_command(path: tuple[str, ...]) -> None:
    lines = helped(path).rstrip("\n").split("\n")
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS
    found = examples(path)
    assert any(tuple(words[: len(path)]) == path for words in found)
    for words in found:
        if words[-1] != "--help":
            assert parsed(words).command.callback


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_breaks_off_no_sentence_and_explains_every_option(path: tuple[str, ...]) -> None:
    shown = helped(path)
    assert not re.search(r"[a-z]\.\.\.$", shown, re.MULTILINE)
    for line in shown.partition("Options:")[2].splitlines():
        assert not re.fullmatch(r"\s+--\S+(\s<.*>)?\s+(\[.*)?", line), line


def test_words_that_no_command_takes_do_not_parse() -> None:
    with pytest.raises(Exception, match="No such option: --dta"):
        parsed(["train", "demo", "--dta", "x"])
