"""A shard of a table of texts -> its part, a Parquet file that holds the checksum of itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multitask.bundle.bundle import Bundle
from multitask.bundle.ensemble import Answering
from multitask.errors import UserError
from multitask.inference.embed import TextEncoder
from multitask.inference.predict import answerer
from multitask.storage.sealed import BLANK
from multitask.storage.storage import Storage
from multitask.tasks.labels import KINDS
from ray_jobs.batch.input import Shard

Arrays = dict[str, Any]  # name -> Arrow array
SEAL = b"minibert.seal"  # in the metadata of a part's schema
_SEAL = re.compile(SEAL + rb"[^0-9a-f]{1,16}([0-9a-f]{64})")  # as Parquet writes it: the key, a length, the value


@dataclass(frozen=True)
class PartPlan:
    """What the parts of a table hold, and where they go."""

    output: Storage
    columns: tuple[str, ...]
    """The columns of texts."""
    task: str | None
    """The task whose predictions they hold; None for embeddings."""
    keep: bool
    """Whether they hold the texts too."""
    work: str = ""
    """A hash of all that they are made of, which goes into their checksums."""

    def check(self) -> None:
        """Raises UserError where a part would have two columns of one name."""
        again = [name for at, name in enumerate(self.columns) if name in self.columns[:at]]
        taken = {"id", "file", "prediction", "label", "probability", "probabilities", *embedding_names(self.columns)}
        if self.keep:
            again += [name for name in self.columns if name in taken]
        if again:
            raise UserError(f"--column {again[0]}: a part would have two columns of that name; rename it, or no --keep")

    def worker(self, bundle: Answering, device: torch.device | str) -> Callable[[Shard], None]:
        """What a worker does with a shard: computes its part and writes it, whole or not at all."""
        return Writer(self, bundle, device).write


class Writer:
    """Computes parts and writes them, each whole or not at all."""

    def __init__(self, plan: PartPlan, bundle: Answering, device: torch.device | str) -> None:
        self.plan = plan
        self.answer = _predictions(plan.task, bundle, device) if plan.task else _embeddings(plan, bundle, device)

    def write(self, shard: Shard) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: Arrays = {"id": pa.array(shard.ids, pa.string())}
        if shard.files:
            columns["file"] = pa.array(shard.files).dictionary_encode()
        if self.plan.keep:
            columns |= {name: pa.array(texts) for name, texts in zip(self.plan.columns, shard.texts, strict=True)}
        sink, table = pa.BufferOutputStream(), pa.table(columns | self.answer(shard.texts))
        pq.write_table(table.replace_schema_metadata({SEAL: BLANK}), sink)
        name = part_name(shard.number)
        self.plan.output.write_bytes(name, sealed_part(sink.getvalue().to_pybytes(), f"{self.plan.work} {name}"))


def sealed_part(data: bytes, of: str) -> bytes:
    """A Parquet file's content with the checksum of itself in the place of BLANK. of: what it belongs to."""
    start, end = _place(data)
    return data[:start] + _checksum(data, of) + data[end:]


def is_sound(data: bytes, of: str) -> bool:
    """Whether a part is as it was written, for what it belongs to. One of a build without checksums is not."""
    try:
        start, end = _place(data)
    except ValueError:
        return False
    return data[start:end] == _checksum(data[:start] + BLANK.encode() + data[end:], of)


def _place(data: bytes) -> tuple[int, int]:
    """Start and end of the checksum; it is in the footer, behind all texts. Raises ValueError where there is none."""
    found = _SEAL.search(data, max(0, data.rfind(SEAL)))
    if found is None:
        raise ValueError("no seal")
    return found.span(1)


def _checksum(blank: bytes, of: str) -> bytes:
    return hashlib.sha256(of.encode() + b"\n" + blank).hexdigest().encode()


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def embedding_names(columns: tuple[str, ...]) -> list[str]:
    return ["embedding"] if len(columns) == 1 else [f"embedding_{name}" for name in columns]


def _embeddings(plan: PartPlan, bundle: Answering, device: torch.device | str) -> Callable[[list[list[str]]], Arrays]:
    assert isinstance(bundle, Bundle), "open_found opens no ensemble"
    encoder, names = TextEncoder(bundle, device), embedding_names(plan.columns)
    return lambda texts: {name: _column(encoder.embed(some)) for name, some in zip(names, texts, strict=True)}


def _predictions(task: str, bundle: Answering, device: torch.device | str) -> Callable[[list[list[str]]], Arrays]:
    """What gives a part's columns of predictions for the texts of its rows.

    prediction: int32 for classes and yes or no, else float32; label: its word, where the task has words for them.
    probability: of yes; probabilities: of each class.
    """
    import pyarrow as pa

    predictor, spec = answerer(bundle, device), bundle.specs[task].label
    has_classes = KINDS[spec.kind].words is not None

    def answer(texts: list[list[str]]) -> Arrays:
        found = predictor.answer(task, texts[0], texts[1] if len(texts) > 1 else None)
        columns = {"prediction": _column(found.labels.astype(np.int32 if has_classes else np.float32))}
        if spec.words:
            columns["label"] = pa.array(map(spec.says, found.labels)).dictionary_encode()
        if found.probabilities is None or not has_classes:  # a probability is the prediction itself
            return columns
        name = "probability" if found.probabilities.ndim == 1 else "probabilities"
        return columns | {name: _column(found.probabilities.astype(np.float32))}

    return answer


def _column(values: NDArray[Any]) -> Any:
    """An array (N,) as an Arrow array of numbers, one of (N, H) as N lists of H."""
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
