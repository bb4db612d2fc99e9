"""Code of one's own on two Ray workers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import recipe_tree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

CALLBACK = """
from pytorch_lightning.callbacks import Callback

class Calling(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_rank == 1:
            raise KeyError("gone")
"""


def trained(folder: Path, tree: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "ray_jobs", "train", "recipe.yaml", "--storage", "runs", "--quiet", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_one_ranks_failure_in_it_is_one_line_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CALLBACK)
    began = time.monotonic()
    done = trained(tmp_path, recipe_tree(epochs=1, callbacks=["mine:Calling"]), "--workers", "2")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "minibert: mine:Calling: KeyError: 'gone', at mine.py:7"
    assert time.monotonic() - began < 120, "the other rank does not wait for it"
    (log,) = (tmp_path / "runs/small/logs").iterdir()
    assert 'raise KeyError("gone")' in log.read_text(), "the worker's traceback"
