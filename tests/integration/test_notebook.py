"""A notebook trains a frame of its own, loses its kernel, and goes on; it reports and exports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

pytestmark = pytest.mark.timeout(300)
DATA = """
import pandas as pd
from multitask import Recipe, Settings, Stage, Task, train

questions = pd.DataFrame({
    "sentence1": ["How do I learn to sing?", "Where is Rome?", "What is tea?", "Who sings?"] * 40,
    "sentence2": ["How can I learn singing?", "How old is Rome?", "What is tea made of?", "Who is singing?"] * 40,
    "is_duplicate": [1, 0, 0, 1] * 40,
})
recipe = Recipe(
    name="mine", encoder="tiny", tasks={"quora": Task(head="interaction")},
    defaults=Settings(epochs=6, batch_size=8, checkpoint_steps=10),
    stages=[Stage(name="pairs", tasks=["quora"], train="full-model", lr=1e-3)],
)
"""
TRAIN = 'trained = train(recipe, {"quora": {"train": questions, "dev": questions[:20]}}, storage="STORAGE")'
AFTER = """
import json
pages = trained.report()
trained.export("exported", "transformers")
print(json.dumps({
    "metrics": trained.metrics, "epochs": trained.curves()["epoch"].tolist(), "pages": pages,
    "answer": trained.bundle.paraphrase("Who sings?", "Who is singing?").labels.tolist(),
}))
"""


def notebook(*cells: str) -> Any:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def executed(folder: Path, *cells: str) -> dict[str, Any]:
    """What the last cell printed."""
    pages = notebook(*cells)
    NotebookClient(pages, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    said = "".join(output.get("text", "") for output in pages.cells[-1].outputs if output.get("name") == "stdout")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


async def killed(folder: Path, *cells: str) -> None:
    """Runs the cells until the stage has a checkpoint, and then kills the kernel."""
    client = NotebookClient(notebook(*cells), timeout=200, resources={"metadata": {"path": str(folder)}})
    running = asyncio.create_task(client.async_execute())
    while not any(folder.glob("killed/mine/*/checkpoints/*/state.json")):
        assert not running.done(), running.exception()
        await asyncio.sleep(0.02)
    os.kill(client.km.provisioner.process.pid, signal.SIGKILL)
    with pytest.raises(DeadKernelError):
        await running


def test_a_notebook_whose_kernel_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    asyncio.run(killed(tmp_path, DATA, TRAIN.replace("STORAGE", "killed")))
    assert not any(tmp_path.glob("killed/mine/*/outcome.json"))
    found = executed(tmp_path, DATA, TRAIN.replace("STORAGE", "killed"), AFTER)
    undisturbed = executed(
        tmp_path, DATA, TRAIN.replace("STORAGE", "undisturbed"), "import json\nprint(json.dumps(trained.metrics))"
    )
    assert found["metrics"] == undisturbed and found["epochs"] == [0, 1, 2, 3, 4, 5, 6]
    assert found["answer"] == [True] and all(Path(page).is_file() for page in found["pages"])
    assert (tmp_path / "exported" / "model.safetensors").is_file()
