"""The model and its tasks, in plain PyTorch: nothing here imports Lightning, Ray or transformers but `train`, when it
is asked for.

from multitask import load_bundle

model = load_bundle("runs/demo/sst")
model.sentiment(["A warm, funny film."]).labels
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multitask.api import Model
    from multitask.recipe.settings import Settings, Split, Task
    from multitask.recipe.stages import Recipe, Stage
    from multitask.tasks.own import Definition, Label
    from ray_jobs.python import cross_validate, train

__version__ = "0.1.0"
__all__ = [
    "Definition",
    "Label",
    "Recipe",
    "Settings",
    "Split",
    "Stage",
    "Task",
    "__version__",
    "cross_validate",
    "load_bundle",
    "train",
]
# What comes with its libraries when it is asked for -> where it lies.
LATER = {
    "Recipe": "multitask.recipe.stages",
    "Stage": "multitask.recipe.stages",
    "Settings": "multitask.recipe.settings",
    "Split": "multitask.recipe.settings",
    "Definition": "multitask.tasks.own",
    "Label": "multitask.tasks.own",
    "Task": "multitask.recipe.settings",
    "train": "ray_jobs.python",
    "cross_validate": "ray_jobs.python",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LATER[name]), name)


def load_bundle(uri: str, device: str | None = None) -> Model:
    """The trained model in a bundle, ready to be asked.

    uri: the directory of a bundle, or of an ensemble of some, here or at any fsspec URI (s3://..., gs://...); or an
        encoder, which has no heads and can only `embed`: `minilm-l6`, a Hugging Face BERT directory or a hub id.
    device: `cpu`, `cuda`, `cuda:1`, `mps`; the best one there is if none is given.
    Raises multitask.errors.UserError, one line, where there is no such bundle or device.
    """
    from multitask.api import open_model  # PyTorch is imported when it is needed
    from multitask.errors import UserError

    try:
        return open_model(uri, device)
    except UserError as error:
        raise error from None  # its one line says all; what a hub's client has raised goes over eighty
