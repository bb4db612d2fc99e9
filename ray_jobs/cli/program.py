"""The `minibert` command: its parts, its exit statuses, and what is said when something goes wrong."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import traceback
from typing import Annotated

import typer

from multitask.errors import Overtaken, PlainFormatter, UserError, printable
from multitask.extras import missing
from ray_jobs.cli import batch, combining, export, inspection, project, recruit, schema, serving, training
from ray_jobs.cli.shared import USER_ERROR, examples
from ray_jobs.cli.usage import Program
from ray_jobs.stopping import INTERRUPTED, waits_for_ray

app = typer.Typer(
    name="minibert",
    cls=Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=examples("minibert train demo", "minibert evaluate runs/demo/sst", "minibert train --help"),
    context_settings={"max_content_width": 120},
)
for part in (training, inspection, batch, combining, export, project, schema, serving):
    app.add_typer(part.app)
app.add_typer(recruit.app, name="recruit")


def _version(asked: bool) -> None:
    if asked:
        from multitask import __version__

        typer.echo(f"minibert {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train small BERT models on sentence tasks, on one machine or on Ray."""


def _behind(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether typer or rich made an exit of an error of that kind."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def _leave(status: int) -> None:
    """Ends the process with that status; past Ray's own end of it where one of Ray's calls was given up
    (ray_jobs/stopping.py)."""
    if waits_for_ray():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main() -> None:
    """Runs the command line. Exit status 0; 2 for what the user can mend, said in one line; 1 for a failure; 130 when
    interrupted."""
    # Before torch is there: it then asks for large pages, whose first touch costs a training on a CPU less.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for stream in (sys.stdout, sys.stderr):  # a terminal without a sign gets its escape, not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort:  # what shows the notes of commands without a log of their own
        logging.lastResort.setFormatter(PlainFormatter())
    try:
        app(prog_name="minibert")
    except (UserError, Overtaken) as error:
        print(f"minibert: {printable(str(error))}", file=sys.stderr)
        _leave(USER_ERROR)
    except ModuleNotFoundError as error:
        if (line := missing(error.name or "")) is None:
            _fail(error)
        print(f"minibert: {line}", file=sys.stderr)
        _leave(USER_ERROR)
    except SystemExit as end:
        if end.code == INTERRUPTED and _behind(end, KeyboardInterrupt):
            print("minibert: interrupted; the same command goes on where it was", file=sys.stderr)
        if _behind(end, BrokenPipeError):
            print("minibert: stopped: nothing reads its output any more", file=sys.stderr)
        _leave(end.code if isinstance(end.code, int) else int(bool(end.code)))
    except Exception as error:
        from multitask.tasks.faults import fault_of

        if (line := fault_of(error)) is None:
            _fail(error)
        print(f"minibert: {line}", file=sys.stderr)
        _leave(USER_ERROR)


def _fail(error: Exception) -> None:
    """Says what has failed, keeps the traceback in a file, and exits with status 1."""
    with tempfile.NamedTemporaryFile("w", prefix="minibert-", suffix=".log", delete=False) as file:
        file.write(traceback.format_exc())
    print(f"minibert: {type(error).__name__}: {printable(str(error))}\ntraceback in {file.name}", file=sys.stderr)
    _leave(1)
