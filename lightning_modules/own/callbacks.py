"""Lightning callbacks of a user's own: made by import path, and their state kept in a stage's checkpoints."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from multitask.errors import UserError, shown
from multitask.experiment.checkpoints import Checkpoint, State
from multitask.tasks.imported import imported

KEPT = "callbacks/"  # how the names of their tensors begin in a checkpoint


def own_callbacks(paths: list[str]) -> list[Callback]:
    """Callbacks that a recipe names by import paths. Raises UserError for what is none."""
    found = []
    for path in paths:
        kind = imported(path)
        if not (isinstance(kind, type) and issubclass(kind, Callback)):
            raise UserError(f"callbacks: '{path}': it is {type(kind).__name__}; valid: a class of Lightning's Callback")
        try:
            inspect.signature(kind).bind()
        except TypeError as error:
            raise UserError(f"callbacks: '{path}': {error}; valid: a class that is made without arguments") from error
        found.append(kind())
    return found


class OwnCallbacks(Callback):
    """A stage's own callbacks, whose state is kept by their places in the recipe; among the trainer's it comes after
    them. `ended` is where the stage stood, if it goes on from an epoch's last step."""

    def __init__(self, paths: list[str]) -> None:
        self.paths, self.callbacks = paths, own_callbacks(paths)
        self.ended: State | None = None

    def kept(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Their state: place -> what JSON holds, and tensors by name. Raises UserError for anything else."""
        plain: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        for at, (path, callback) in enumerate(zip(self.paths, self.callbacks, strict=True)):
            state = callback.state_dict()
            tensors |= {f"{KEPT}{at}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
            plain[str(at)] = {key: _plain(path, key, it) for key, it in state.items() if not isinstance(it, Tensor)}
        return plain, tensors

    def restore(self, checkpoint: Checkpoint, steps_per_epoch: int) -> None:
        """Gives each callback the state that it had when the checkpoint was made."""
        self.ended = checkpoint.state if checkpoint.state.position.step == steps_per_epoch else None
        for at, callback in enumerate(self.callbacks):
            state = {**checkpoint.state.callbacks.get(str(at), {}), **_below(f"{KEPT}{at}/", checkpoint.extra)}
            if state:
                callback.load_state_dict(state)

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Refuses what cannot be kept before it is trained for. A checkpoint of an epoch's last step is made before the
        callbacks hear of the epoch's end, so they hear of it now."""
        self.kept()
        if self.ended:
            now, module.state = module.state, self.ended  # type: ignore[assignment]
            for callback in self.callbacks:
                callback.on_train_epoch_end(trainer, module)
            module.state = now


def _plain(path: str, key: str, value: Any) -> Any:
    try:
        found = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        found = None
    if found != value:
        raise UserError(
            f"callbacks: '{path}': '{key}' of its state is {shown(value)}; valid: a tensor, or what is the same after "
            f"JSON: words, numbers, lists and mappings of words"
        )
    return found


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
