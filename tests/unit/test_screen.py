"""What the user sees: on terminals of any width, in files and pipes, and as JSON."""

from __future__ import annotations

import io
import json
import os
import pty
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lightning_modules.progress import Progress
from ray_jobs.screen import Screen

HEADER = ("metric", "value", "95 % interval", "rows")
ROWS = [("sst/accuracy", ".747", ".673 .. .813", "150"), ("overall/normalised", ".829", "", "")]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(width: int, tell: Callable[[Screen], None]) -> str:
    file = io.StringIO()
    tell(Screen(Console(file=file, width=width, highlight=False)))
    return file.getvalue()


def step(done: int, doing: str = "step") -> Progress:
    return Progress("sts", doing, 1, 2, done, 100, 0.5)


def on_terminal(tell: Callable[[Screen], None]) -> str:
    """What a terminal gets."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as file:
        tell(Screen(Console(file=file, width=80, highlight=False)))
    said = b""
    try:
        while found := os.read(ours, 65536):
            said += found
    except OSError:  # a closed terminal's end of file
        pass
    os.close(ours)
    return said.decode()


def two_steps(screen: Screen) -> None:
    with screen:
        screen.progress(step(1))
        screen.progress(step(2))


@pytest.mark.parametrize(
    ("width", "first"),
    [(120, "metric             ┃ value ┃ 95 % interval"), (58, "metric"), (50, "metric"), (20, "sst/accuracy")],
)
def test_a_table_breaks_no_word_whatever_the_width(width: int, first: str) -> None:
    said = shown(width, lambda screen: screen.table(HEADER, ROWS))
    assert first in said.partition("\n")[2] or said.startswith(first)
    for word in ("sst/accuracy", "overall/normalised", "interval", ".829"):
        assert word in said
    assert max(map(len, said.splitlines())) <= max(width, len("  95 % interval: .673 .. .813"))


def test_a_table_of_many_columns_is_turned_where_that_fits() -> None:
    header = ("stage", *(f"metric-{at}" for at in range(8)))
    said = shown(60, lambda screen: screen.table(header, [("encoder", *"12345678"), ("para", *"abcdefgh")]))
    assert re.search(r"│ metric-7 │ +8 │ h +│", said)


words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(words, min_size=n, max_size=n), min_size=2, max_size=5)),
       st.integers(10, 200))  # fmt: skip
def test_every_cell_is_shown(lines: list[list[str]], width: int) -> None:
    said = "".join(shown(width, lambda screen: screen.table(lines[0], lines[1:])).split())
    assert all("".join(cell.split()) in said for line in lines[1:] for cell in line)


def test_a_file_gets_a_line_for_what_is_new_and_no_control_characters() -> None:
    def tell(screen: Screen) -> None:
        for progress in (step(1), step(2), step(3), step(3), step(10, "dev sst"), step(100)):
            screen.progress(progress)

    said = shown(80, tell)
    assert [line.split("  ")[2] for line in said.splitlines()] == ["step 1/100", "dev sst 10/100", "step 100/100"]
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("name", "value", "moves", "colours"),
    [("TERM", "xterm", True, True), ("TERM", "dumb", False, False), ("NO_COLOR", "1", True, False)],
)
def test_a_terminal_gets_one_live_line_unless_it_is_dumb(
    name: str, value: str, moves: bool, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, value)
    said = on_terminal(two_steps)
    assert ("\x1b[?25l" in said) == moves  # the cursor is hidden
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h")  # and comes back
    assert ESCAPE.sub("", said).replace("\r", "").splitlines()[-1].startswith("sts  epoch 1/2  step")
    marked = on_terminal(lambda screen: screen.console.print("[red]red[/]"))
    assert ("\x1b[31m" in marked) == colours


def test_forced_colours_move_no_cursor_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[?25l" not in shown(80, two_steps)


@pytest.mark.parametrize(("seconds", "said"), [(9.0, ""), (3723.0, "took 1:02:03\n")])
def test_what_took_long_ends_with_its_time(
    seconds: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr("ray_jobs.screen.time.monotonic", lambda: next(now))
    with Screen():
        pass
    assert capsys.readouterr().out == said


def test_quiet_leaves_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(quiet=True) as screen:
        screen.note("reading ...")
        screen.progress(step(1))
        screen.say("bundle: here")
        screen.table(HEADER, ROWS)
    said = capsys.readouterr().out
    assert said.startswith("bundle: here\n") and "overall/normalised" in said and "step" not in said


def test_json_is_all_that_standard_output_gets_whoever_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(as_json=True) as screen:
        screen.note("reading ...")
        screen.progress(step(1))
        print("a library's word")
        screen.document({"value": 1.0})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"value": 1.0}
    assert all(word in said.err for word in ("reading", "step 1/100", "a library's word"))
    print("again")
    assert capsys.readouterr().out == "again\n"
