"""Commands run in forked children of this one process, which has imported everything: a start costs milliseconds."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

SECONDS = 60  # that a command may take; it is killed then

MODULES = [
    *("bm25s", "jsonschema", "pyarrow.parquet", "rich.table"),
    *("tensorboard.backend.event_processing.event_accumulator", "lightning_modules.run", "multitask.report"),
    *(
        "ray_jobs.batch.table_job",
        "ray_jobs.bundles.scoring",
        "ray_jobs.bundles.export",
        "ray_jobs.runners.local",
        "ray_jobs.recruit.serve",
    ),
    "ray_jobs.driver.telling",
]

Command = list[str] | Callable[[], object]  # of `minibert`, or what stands for one that serves for ever


@dataclass(frozen=True)
class End:
    """status: of the exit, or minus the signal that ended it. said: all that it printed, errors too."""

    status: int
    out: str
    said: str


def warm() -> None:
    """Imports what the commands need, and keeps all arithmetic to one thread: a forked child has no others."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    for name in MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()  # the children's collections need not look at it all again
    from multitask.experiment.lease import Lease

    Lease.__init__.__defaults__ = (
        10.0,
        0.3,
        0.02,
        *Lease.__init__.__defaults__[3:],
    )  # how long a lease is watched is not what is looked at here


def run(command: Command, folder: Path) -> End:
    """The command in that folder, with a temporary directory there."""
    with tempfile.TemporaryDirectory(prefix="minibert-said-") as said:
        out, err = Path(said, "out"), Path(said, "err")
        child = os.fork()
        if not child:
            _child(command, folder, out, err)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told = out.read_text(errors="replace")
        return End(status, told, told + err.read_text(errors="replace"))


def _child(command: Command, folder: Path, out: Path, err: Path) -> None:
    """Never returns."""
    status = 99
    try:
        signal.alarm(SECONDS)
        for file, number in ((out, 1), (err, 2)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        os.chdir(folder)
        os.fsync = lambda file: None  # that is tests/crashpoints' part
        (folder / "tmp").mkdir(exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        status = _status(command)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status(command: Command) -> int:
    """Exit status, as the command line has it."""
    from multitask.errors import UserError
    from ray_jobs.cli import main

    try:
        if isinstance(command, list):
            sys.argv = ["minibert", *command]
            main()
        else:
            command()
        return 0
    except UserError as error:
        print(f"minibert: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        return 1
