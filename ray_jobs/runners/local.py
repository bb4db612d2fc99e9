"""`--workers 0`: a stage in this process, on whatever device there is. No Ray."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lightning_modules.progress import Progress
from lightning_modules.run import Execution, quiet_libraries, run_stage
from multitask.errors import UserError
from multitask.experiment.stage_job import StageJob
from multitask.inference.embed import default_device
from ray_jobs.runners.memory import keep_memory
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest


class LocalRunner:
    """Runs stages in this process. Raises Interrupted where the user asked to stop. own_process: whether the process is
    there for that alone."""

    def __init__(self, device: str, screen: Screen, stop: StopRequest, own_process: bool = True) -> None:
        self.device, self.screen, self.stop, self.own_process = device, screen, stop, own_process

    def __enter__(self) -> LocalRunner:
        if self.device == "gpu" and default_device().type == "cpu":
            raise UserError("--device gpu: this machine has none that torch can use; minibert doctor says more")
        quiet_libraries()
        if self.own_process:
            keep_memory()
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, job: StageJob) -> int:
        """Runs a stage to its end; returns the number of its Ray workers, none."""
        run_stage(job, Execution(self.device), partial(self._report, job.shown))
        return 0

    def release(self) -> None:
        """Does nothing: nothing is held between two stages."""

    def _report(self, shown: str, progress: Progress) -> bool:
        self.screen.progress(replace(progress, stage=shown or progress.stage))
        return self.stop.asked
