"""The checkpoint store: what a stage needs to go on exactly where it stopped.

`<trainer>/checkpoints/step-00000400/` holds weights, optimizer and extra.safetensors, average.safetensors where
weights are averaged, and state.json, sealed by
manifest.json. Saving copies the tensors and returns; a thread serialises and uploads, with at most one snapshot in
flight and one that waits, so memory stays bounded and training goes on beside it. The storage waits out what passes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from multitask.errors import StorageError
from multitask.storage.sealed import Content, Damaged, is_sealed, read_sealed, said_of, write_sealed
from multitask.storage.storage import Storage, file_at
from multitask.storage.uris import join

STEP = "step-"  # how the names of checkpoints begin
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where a stage stands."""

    epoch: int = 0
    """The epoch that it is in, from 0."""
    step: int = 0
    """The batches of that epoch that are done."""
    steps: int = 0
    """The optimizer steps that are done in all."""


@dataclass(frozen=True)
class State:
    """What of a stage is not a tensor."""

    position: Position = Position()
    seconds: float = 0.0
    """Training time so far, over all attempts."""
    examples: int = 0
    """Examples trained on so far, over all attempts."""
    seen: str = ""
    """A hash of the examples of every global batch so far, in order."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """The loss scaler's state under 16-mixed."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Task -> [sum, count] since the last point of its curve."""
    start: str = ""
    """The sha256 of the weights that the stage started from; "" in checkpoints of older builds."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Place in the recipe -> what of the state of a callback of the user's own is no tensor."""
    part_tokens: int | None = None
    """The tokens whose activations are held at a time, as `micro_batch: auto` has found; None is all of a batch's."""

    def rolled(self, steps_per_epoch: int) -> State:
        """The state at the next epoch's start where the epoch's last step is done; else this one."""
        position = self.position
        if position.step < steps_per_epoch:
            return self
        return replace(self, position=Position(position.epoch + 1, 0, position.steps))


@dataclass(frozen=True)
class Checkpoint:
    """All that a stage needs to go on where it stood."""

    state: State
    weights: dict[str, Tensor]
    """The weights that the stage trains; a frozen encoder is in the bundle that it starts from."""
    optimizer: dict[str, Tensor]
    """`<parameter name>/<state name>` -> tensor."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What else the stage's objective keeps from step to step."""
    records: list[dict[str, Any]] | None = None
    """What metrics.jsonl held by then; None in a checkpoint of a build that did not keep it."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """What a running mean of the weights holds (multitask/model/averages.py); empty where none is kept."""


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def _name(steps: int) -> str:
    return f"{STEP}{steps:08d}"


class CheckpointStore:
    """The checkpoints of one stage, in its trainer's folder, whose fence stands before each write.

    keep: how many of the newest stay; those of `pinned` steps stay besides. before: called in the thread before each
    checkpoint is written, for what it covers. Rank 0 alone saves; all ranks read.
    """

    def __init__(self, folder: Storage, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._trainer = file_at(file_at(folder.uri)[0].uri)[1]
        self.before: Callable[[], None] = lambda: None
        self.pinned: set[int] = set()
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._flying: Future[None] | None = None
        self._waiting: Checkpoint | None = None  # a copy that is uploaded when the one in flight has landed
        self._at_work, self._lock = False, threading.Lock()

    def save(self, checkpoint: Checkpoint) -> None:
        """Copies a checkpoint and starts its upload, behind the one in flight. Raises what stopped the newest upload,
        once it has.

        Another checkpoint that still waits there gives way to this newer one; a pinned one does not, and is waited for.
        """
        self.check()
        if self._waiting and self._waiting.state.position.steps in self.pinned:
            self.flush()
        copied = Checkpoint(
            checkpoint.state,
            _copy(checkpoint.weights),
            _copy(checkpoint.optimizer),
            _copy(checkpoint.extra),
            checkpoint.records,
            _copy(checkpoint.average),
        )
        with self._lock:
            if self._at_work:
                self._waiting = copied
            else:
                self._at_work, self._flying = True, self._pool.submit(self._upload_all, copied)

    @property
    def busy(self) -> bool:
        """Whether a snapshot is in flight: another would wait for it."""
        return self._flying is not None and not self._flying.done()

    def check(self) -> None:
        """Raises what stopped the newest upload, once it has; waits for nothing."""
        if not self.busy:
            self.flush()

    def flush(self) -> None:
        """Returns when nothing is in flight any more; raises what stopped the newest upload."""
        if self._flying is not None:
            flying, self._flying = self._flying, None
            flying.result()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the upload in flight; its failure is raised unless another error is on its way."""
        try:
            self.flush()
        except Exception as error:
            if kind is None:
                raise
            log.warning("checkpoint in flight not saved: %s", error)
        finally:
            self._pool.shutdown()

    def _upload_all(self, checkpoint: Checkpoint | None) -> None:
        """The thread's work: uploads a checkpoint, and whatever is waiting when that has landed."""
        try:
            while checkpoint:
                self._upload(checkpoint)
                checkpoint = self._next()
        except BaseException:
            with self._lock:
                self._at_work, self._waiting = False, None
            raise

    def _next(self) -> Checkpoint | None:
        with self._lock:
            found, self._waiting = self._waiting, None
            self._at_work = found is not None
        return found

    def _upload(self, checkpoint: Checkpoint) -> None:
        path = _name(checkpoint.state.position.steps)
        files: dict[str, Content] = {
            "weights.safetensors": checkpoint.weights,
            "optimizer.safetensors": checkpoint.optimizer,
            "extra.safetensors": checkpoint.extra,
            **({"average.safetensors": checkpoint.average} if checkpoint.average else {}),
            "state.json": json.dumps({**asdict(checkpoint.state), "records": checkpoint.records}).encode(),
        }
        self.before()
        write_sealed(self.folder, path, files, {"schema": 1}, of=self._trainer)
        try:
            self._retain(path)
        except StorageError as error:  # the checkpoint is sound; what could not be removed only takes room
            log.warning("old checkpoints not removed: %s", error)

    def _retain(self, saved: str) -> None:
        """Keeps the newest up to the one just saved, and the pinned.

        What lies beyond the one just saved was passed over as damaged when the stage resumed, and goes too.
        """
        names = [name for name in self.folder.list() if name.startswith(STEP)]
        kept = [name for name in names if name <= saved][-self.keep :]
        pinned = [_name(steps) for steps in self.pinned]
        for name in names:
            if name not in kept and name not in pinned:
                self.folder.remove(name)

    def newest(self) -> Checkpoint | None:
        """The newest sound checkpoint; each damaged one that is passed over is named in a warning."""
        for name in reversed([name for name in self.folder.list() if name.startswith(STEP)]):
            if not is_sealed(self.folder, name):
                log.warning("checkpoint %s/%s: unfinished, using an older one", self.folder.uri, name)
                continue
            try:
                return self._read(name)
            except Damaged as error:
                log.warning("checkpoint damaged, using an older one: %s", error)
        return None

    def at(self, steps: int) -> Checkpoint:
        """The checkpoint of that many steps. Raises Damaged where it is not sound."""
        return self._read(_name(steps))

    def _read(self, name: str) -> Checkpoint:
        files = read_sealed(self.folder, name, self._trainer)
        try:
            state = json.loads(files["state.json"])
            state["position"] = Position(**state["position"])
            records = state.pop("records", None)
            if (steps := state["position"].steps) != int(name.removeprefix(STEP)):
                raise ValueError(f"of step {steps}, not of its folder's")
            return Checkpoint(
                State(**state),
                load_tensors(files["weights.safetensors"]),
                load_tensors(files["optimizer.safetensors"]),
                load_tensors(files["extra.safetensors"]) if "extra.safetensors" in files else {},  # old ones have none
                records,
                load_tensors(files["average.safetensors"]) if "average.safetensors" in files else {},
            )
        except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
            raise Damaged(f"{join(self.folder.uri, name)}: damaged: {said_of(error)}") from error
