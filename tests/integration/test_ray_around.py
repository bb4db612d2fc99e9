"""Ray's workers among what people have: another Lightning installed, errors that come again, workers that are killed.

One start of Ray for all of them; what goes wrong in storages, drivers and machines: tests/faults.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning_fabric
import pytest
import pytorch_lightning

from lightning_modules.progress import Progress
from multitask.experiment.stage_job import StageJob
from multitask.recipe.checks import build_recipe
from multitask.storage.storage import Storage
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.jobs import job_of
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.logs import DriverLog
from ray_jobs.options import Workers
from ray_jobs.runners.address import unreachable
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from tests.faults.harness import workers_of
from tests.helpers import recipe_tree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def lightning_beside(folder: Path) -> None:
    """The package `lightning` as it is built: pytorch_lightning and lightning_fabric under names of its own.

    Classes of its own too, so that the one's Trainer refuses the other's strategy.
    """
    for package, name in ((pytorch_lightning, "pytorch"), (lightning_fabric, "fabric")):
        source = Path(package.__file__).parent
        for file in (*source.rglob("*.py"), source / "version.info"):
            text = file.read_text().replace("pytorch_lightning", "lightning.pytorch")
            target = folder / "lightning" / name / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace("lightning_fabric", "lightning.fabric"))
    (folder / "lightning" / "__init__.py").write_text(f"__version__ = '{pytorch_lightning.__version__}'\n")


@pytest.fixture(scope="module", autouse=True)
def one_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray that all tests here share: its workers find another Lightning first, and TMPDIR is as long as batch systems
    make it."""
    import ray

    beside = tmp_path_factory.mktemp("beside")
    lightning_beside(beside)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(beside), os.getcwd()]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("a-scratch-folder-of-a-batch-system-job-1234567890")))
        patch.syspath_prepend(str(beside))
        first = Driver(request(tmp_path_factory.mktemp("first")), Screen(quiet=True))
        with first._runner(StopRequest("")).cluster as cluster:  # type: ignore[union-attr]
            assert cluster._began
            yield
    assert not ray.is_initialized()


def request(folder: Path, **stage: Any) -> TrainingRequest:
    recipe = build_recipe(recipe_tree(**stage), "test")
    return TrainingRequest(recipe, None, Storage(str(folder)), "small", Workers(2, 2), False)


class Watched(Screen):
    """A screen that does something at a step."""

    def __init__(self, act: Any = None) -> None:
        super().__init__()
        self.act = act

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        if self.act and progress.doing == "step":
            act, self.act = self.act, None
            act()


def train(folder: Path, act: Any = None, spoil: Any = None, **stage: Any) -> tuple[dict[str, Any], str]:
    """Results, and the driver's log. spoil: what is done to each job."""
    driver, spoilt = Driver(request(folder, **stage), Watched(act)), spoil or (lambda job: job)
    try:
        with DriverLog(Storage(str(folder)).at("small")) as log, pytest.MonkeyPatch.context() as patch:
            patch.setattr("ray_jobs.driver.driver.job_of", lambda *of: spoilt(job_of(*of)))
            results = driver.run(StopRequest(""))
    finally:
        text = (folder / "small" / log.path).read_text()
    return results, text


def test_a_long_tmpdir_is_not_where_ray_has_its_sockets_and_its_address_answers() -> None:
    import ray

    found = Path(ray._private.worker._global_node.get_session_dir_path())
    assert not found.is_relative_to(os.environ["TMPDIR"]) and len(str(found)) < 107 - len("/sockets/dash_MetricsHead")
    assert unreachable(ray.get_runtime_context().gcs_address) is None


def test_another_lightning_beside_ours_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def found() -> str:
        import lightning.pytorch

        return str(lightning.pytorch.strategies.DDPStrategy.__module__)

    assert ray.get(found.remote()) == "lightning.pytorch.strategies.ddp", "it is there for the workers"
    results, _ = train(tmp_path, epochs=1)
    assert [stage["status"] for stage in results["stages"]] == ["measured", "finished"]
    said = "".join(capfd.readouterr())
    assert "started again" not in said and "Traceback" not in said and "\x1b" not in said


def test_the_same_error_at_two_starts_ends_the_run_with_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def spoil(job: StageJob) -> StageJob:
        return replace(job, model=replace(job.model, losses={"quora": "no such loss"}))

    with pytest.raises(RuntimeError, match=r"no such loss.*\(rank \d, at two starts in a row\)"):
        train(tmp_path, spoil=spoil)
    said = "".join(capfd.readouterr())
    assert said.count("2 workers started again") == 1
    assert "Traceback" not in said and "\x1b" not in said
    log = next((tmp_path / "small" / "logs").iterdir()).read_text()
    assert log.count("Traceback (most recent call last)") >= 2, "of the workers, with the line that failed"
    assert "lightning_modules/run.py" in log


def test_a_killed_worker_is_one_line_that_says_what_died_and_what_was_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed = []

    def kill() -> None:
        killed.append(workers_of(os.getpid())[-1])
        os.kill(killed[0], signal.SIGKILL)

    results, log = train(tmp_path, act=kill, epochs=30, checkpoint_steps=5, validate="stage")
    assert results["stages"][-1]["status"] == "finished"
    said = "".join(capfd.readouterr())
    lines = [line for line in said.splitlines() if str(killed[0]) in line]
    assert len(lines) == 1, said
    assert re.fullmatch(
        rf"rank \d \(pid {killed[0]} on [\d.]+\) was killed by SIGKILL, as the kernel does when memory runs out, "
        r"or crashed; 2 workers started again, from the newest checkpoint",
        lines[0],
    )
    assert "Traceback" not in said and "gloo" not in said and "\x1b" not in said
    assert "Worker unexpectedly exits" in log, "what Ray says of it"
