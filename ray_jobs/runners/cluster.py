"""Ray for as long as a driver needs it: the cluster it runs in, or a local one that ends with it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from multitask.errors import UserError
from multitask.storage.owners import kept_in
from ray_jobs.options import Workers
from ray_jobs.runners.address import cluster_address, started_here, unreachable
from ray_jobs.screen import Screen
from ray_jobs.stopping import waits_for_ray

log = logging.getLogger(__name__)

# Between two looks at whether an elastic run can have more workers. Ray gives no notice of it: longer than checkpoints
# are apart, or nothing would ever be saved where capacity keeps changing.
RESIZE_SECONDS = 600.0
# A socket's path has 107 bytes at most, and what Ray adds to its folder up to 72, as
# /ray/session_2026-11-28_13-25-12_252771_1234567/sockets/dash_MetricsHead.
LONGEST_FOLDER = 107 - 72
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
INIT: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.ERROR}


@contextmanager
def own_signals() -> Iterator[None]:
    """Puts our handlers of signals back in the end: Ray's own ends the driver at SIGTERM with SIGABRT.

    Where the loss of the terminal does not end the driver either (ray_jobs/stopping.py), what Ray starts inherits that
    it is ignored, and lives until the workers have saved.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has handlers to put back
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] != signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _join(given: str) -> None:
    """Connects to the cluster of RAY_ADDRESS. Raises UserError, within half a minute, where there is none."""
    import ray

    address = started_here() if given == "auto" else given
    if address and (why := unreachable(address)):
        raise UserError(f"RAY_ADDRESS={given}: {why}")
    try:
        ray.init(**INIT)
    except ConnectionError as error:
        raise UserError(f"RAY_ADDRESS={given}: {error}") from error


@contextmanager
def _temporary(folder: str | None) -> Iterator[None]:
    """Within it, TMPDIR is another folder, for processes that are started and have sockets there; None: it stays."""
    before = os.environ.get("TMPDIR")
    if folder:
        os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        if folder and before is None:
            del os.environ["TMPDIR"]
        elif folder and before:
            os.environ["TMPDIR"] = before


def printed_to_the_log() -> None:
    """From now on, what Ray's processes print, some 50 lines where a worker is killed, goes into the driver's log; but
    not what its autoscaler says, which someone who waits for nodes wants to see.

    Ray has no public way to take it anywhere but to the terminal; where a later version has no such function either,
    it is printed as before.
    """
    from ray._private import worker

    shown = getattr(worker, "print_to_stdstream", None)

    def keep(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        if shown and data.get("pid") == "autoscaler":
            shown(data, ignore_prefix)
            return
        for line in data["lines"]:
            log.info("%s %s: %s", data.get("actor_name") or data.get("task_name") or "Ray", data.get("pid"), line)

    if shown and shown.__module__ == worker.__name__:  # not yet ours
        worker.print_to_stdstream = keep


class Cluster:
    """Ray within a context: connected to, or started and ended again.

    workers: (0, 0) where Ray is there for trials alone. silent: what Ray's processes print goes to the log alone; what
    they have to say to the user comes by a board (ray_jobs/runners/board.py). dashboard: whether a Ray of the driver's
    own has one, which costs seconds of its start; trials on workers of their own need it (`trainer_class`).

    Within the context, use_gpu: whether each of the fewest workers has a GPU, or is to have one. cpus: how many a
    worker has. own: whether Ray is here for this driver alone. Where Ray runs in this process already, as in a sweep
    amid a run on workers, it is used and left running.
    """

    def __init__(self, workers: Workers, screen: Screen, silent: bool = False, dashboard: bool = False) -> None:
        (self.low, self.high, self.device), self.screen, self.silent = workers, screen, silent
        self.dashboard = dashboard
        self.use_gpu, self.cpus = False, 1

    def __enter__(self) -> Cluster:
        self._cleanup = ExitStack()
        # Ray's own bookkeeping stays with the driver: nothing in it is needed to go on.
        self._files = tempfile.TemporaryDirectory(prefix=kept_in("ray"), ignore_cleanup_errors=True)
        self._cleanup.callback(self._files.cleanup)
        try:
            self._connect()
        except BaseException:
            self._cleanup.close()
            raise
        try:
            self._share_out()
        except UserError:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        """Connects to the cluster of RAY_ADDRESS, to a Ray that runs in this process, or to one that it starts."""
        import ray

        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths mean the same everywhere
        self.span = f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"
        given = cluster_address()
        self.own = given is None
        if self.own:  # a node that nobody takes away needs no process that watches for it
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 lets its own helpers go before the training
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # no codes in logs
        if self.silent:
            printed_to_the_log()
        self._began = not ray.is_initialized()
        if self._began:
            self.screen.note(f"starting Ray for {self.span} workers ..." if self.high else "starting Ray ...")
            with own_signals():
                if given:
                    _join(given)
                else:
                    self._start()

    def _start(self) -> None:
        """Starts a Ray of this run's own. Raises UserError where it does not come up in time, twice."""
        import ray

        folder = self._session_folder()
        own = {"num_cpus": max(os.cpu_count() or 1, self.low), "include_dashboard": self.dashboard}
        for again in (True, False):
            try:
                with _temporary(folder):
                    ray.init(address="local", _temp_dir=folder, **own, **INIT)
                return
            except Exception as error:
                ray.shutdown()
                if "timed out" not in str(error).lower():
                    raise
                if not again:
                    what = "is this machine very busy, or out of memory?"
                    raise UserError(f"Ray has not started within 30 s, twice: {what} It says: {error}") from error
                self.screen.say("Ray has not started within 30 s: trying once more")

    def _session_folder(self) -> str | None:
        """A folder for Ray's sockets and logs, where the path that Ray would have is too long; None where it is not.

        Raises UserError where no shorter one can be written to.
        """
        usual = os.path.abspath(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
        if len(os.fsencode(usual)) <= LONGEST_FOLDER:
            return None
        for base in SHORT_FOLDERS:
            with suppress(OSError):
                folder = tempfile.mkdtemp(prefix="ray-", dir=base)
                self._cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
                self.screen.note(f"{usual} is too long a path for Ray's sockets: they lie in {folder} until the end")
                return folder
        raise UserError(
            f"TMPDIR={usual}: too long a path for Ray's sockets, {LONGEST_FOLDER} bytes at most, and none of "
            f"{', '.join(SHORT_FOLDERS)} can be written to: name a shorter one in RAY_TMPDIR"
        )

    def _share_out(self) -> None:
        """Decides what each worker gets. Raises UserError where this machine has too few GPUs."""
        import ray

        self.cpus = max(1, (os.cpu_count() or 1) // max(1, self.high)) if self.own else 1
        self.gpus = 0 if self.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        if self.own and self.device == "gpu" and self.gpus < max(1, self.low):
            raise UserError(f"--device gpu: {self.span} workers want a GPU each, this machine has {self.gpus}")
        self.use_gpu = self.device == "gpu" or self.gpus >= max(1, self.low)

    def __exit__(self, *_: object) -> None:
        import ray

        if self._began and not waits_for_ray():
            ray.shutdown()
        self._cleanup.close()

    @property
    def files(self) -> str:
        return self._files.name

    @property
    def accelerator(self) -> str:
        return "gpu" if self.use_gpu else "cpu"

    def actor(self, kind: type, *arguments: Any) -> Any:
        """An actor that takes no CPU, on the driver's own node: the loss of another one must not end the driver."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ray.remote(num_cpus=0, scheduling_strategy=here)(kind).remote(*arguments)

    def trainer_class(self) -> Any:
        """Ray's TorchTrainer; without its cleaner where there is no dashboard.

        The cleaner is an actor that asks the dashboard once a second whether Ray Train's controller lives, to free the
        workers' places where it does not. A driver that started Ray for its workers alone ends with the controller, and
        Ray with the driver. Ray has no setting for that: where a later version makes its callbacks elsewhere, the
        cleaner is there, and warns in the driver's log.
        """
        from ray.train.torch import TorchTrainer

        class WithoutCleaner(TorchTrainer):
            def _create_default_callbacks(self) -> list[Any]:
                made = super()._create_default_callbacks()
                return [callback for callback in made if type(callback).__name__ != "PlacementGroupCleanerCallback"]

        return WithoutCleaner if self.own and not self.dashboard else TorchTrainer

    def facts(self) -> dict[str, Any]:
        """The arguments of `scaling`, as plain JSON."""
        return {"low": self.low, "high": self.high, "cpus": self.cpus, "use_gpu": self.use_gpu}

    def devices(self) -> str:
        """Says what the workers train on, and how a cluster that starts its nodes on demand is asked for more."""
        if self.use_gpu:
            return "a GPU each"
        more = "" if self.own or self.device != "auto" else "; --device gpu waits for nodes that have one"
        return f"CPUs (GPUs found: {self.gpus}{more})"

    def room(self) -> str:
        """Says what the workers need and what there is, for someone who waits for them."""
        import ray

        found, free = ray.cluster_resources(), ray.available_resources()
        kind, each = ("GPU", 1) if self.use_gpu else ("CPU", self.cpus)
        return (
            f"{self.low} workers need {self.low * each} {kind}s, the cluster has {found.get(kind, 0):g}, "
            f"of which {free.get(kind, 0):g} are free"
        )


def scaling(low: int, high: int, cpus: int, use_gpu: bool) -> Any:
    """Ray's ScalingConfig: a fixed number of workers, or as many as there is room for."""
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=low if low == high else (low, high),
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus},
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
    )
