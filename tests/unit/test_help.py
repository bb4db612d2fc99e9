"""What --help shows of every command: a screen at most, and an example that is a command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ray_jobs.cli import app, main

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
    with pytest.raises(Exception, match="--dta"):
        parsed(["train", "demo", "--dta", "x"])


MISTAKES = {
    "train demo --dta x": r"train: No such option: --dta .Possible options: .*--data.* \(see minibert train --help\)",
    "train demo --seeds x": r"train: Invalid value 'x' for '--seeds': .* integer.* \(see minibert train --help\)",
    "recruit prepare p --output o --held-out 2": r"recruit prepare: Invalid value '2' for '--held-out': .* 0\.5 .*",
    "train": r"train: Missing argument 'recipe' \(see minibert train --help\)",
    "train demo --data": r"train: Option '--data' requires an argument \(see minibert train --help\)",
    "trainn demo": r"No such command 'trainn'. Did you mean 'train'\? \(see minibert --help\)",
    "recruit --dta": r"recruit: No such option: --dta \(see minibert recruit --help\)",
}


@pytest.mark.parametrize(("line", "said"), MISTAKES.items(), ids=MISTAKES)
def test_words_that_no_command_takes_are_one_line_and_status_2(
    line: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["minibert", *line.split()])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == "" and re.fullmatch(f"minibert: {said}\n", shown.err)


def test_no_words_are_answered_with_the_help() -> None:
    assert CliRunner().invoke(app, ["recruit"]).output.startswith("Usage: ")
