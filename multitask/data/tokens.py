"""Tokens, made once: a data file's examples as flat arrays in one memory-mapped, sealed file.

The file lies at `<storage>/cache/tokens/<key>.safetensors`; the key hashes the data file's content, the
tokenizer and how both are read, so a cache is never stale and never has to be invalidated. A damaged one is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from multitask.data.ids import Ids, SentenceIds
from multitask.data.progress import Done, silent
from multitask.data.readers import Example
from multitask.data.samplers import Lengths
from multitask.data.shards import Shards
from multitask.data.tabular import BadRow
from multitask.errors import UserError
from multitask.storage.owners import kept_in
from multitask.storage.sealed import Damaged
from multitask.storage.storage import Storage
from multitask.storage.tensors import SealedTensors, open_tensors, write_tensors
from multitask.tasks.cells import LabelValue
from multitask.tasks.labels import KINDS
from multitask.tasks.table import TaskSpec

FORMAT = 4
CHUNK = 4096  # examples that are read and tokenized at a time
AT_ONCE = 1 << 20  # examples whose lengths are computed at a time
TYPES = {
    "input_ids": torch.int32, "offsets": torch.int64, "labels": torch.float32, "ids": torch.uint8,
    "id_offsets": torch.int64,
}  # fmt: skip
SECONDS = {"seconds": torch.int32}  # where pairs are joined as two segments
WEIGHTS = {"weights": torch.float32}  # where rows count for more or less
Touch = Callable[[int, int], None]  # told of the tokens that are about to be looked at, from one to before another
log = logging.getLogger(__name__)


def untouched(start: int, stop: int) -> None:
    """The `touch` of tables that lie in memory: there is nothing to check."""


@dataclass(frozen=True)
class TokenTable:
    """The tokens of N examples of `sentences` sentences each; sentence s of example i is i * sentences + s.

    input_ids: (L,) int32, all sentences end to end; who looks at it says so to `touch` first, or takes `tokens`.
    offsets: (N * sentences + 1,) int64.
    labels: (N,) float32, or (N, W) of W numbers each; nan where the file has none. ids: the N examples' own ids.
    source, sha256: the data file and its content. quarantined: its rows that were left out.
    seconds: (N,) int32 of pairs joined as two segments, how many tokens come before the second; None elsewhere.
    weights: (N,) float32, what examples count for in a loss; None where all count alike.
    """

    input_ids: Tensor
    offsets: Tensor
    labels: Tensor
    ids: Sequence[str]
    sentences: int
    source: str
    sha256: str
    quarantined: list[BadRow]
    touch: Touch = untouched
    seconds: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def labelled(self) -> int:
        """How many examples have a label; they come before those that have none."""
        first = self.labels if self.labels.ndim == 1 else self.labels[:, 0]
        return len(self) - int(first.isnan().sum())

    @cached_property
    def lengths(self) -> Lengths:
        """(N,) int32, tokens of each example's longest sentence."""
        offsets, longest = self.offsets.numpy(), np.zeros(len(self), np.int32)
        for start in range(0, len(self), AT_ONCE):  # all differences at once would be four times what is kept
            ends = offsets[start * self.sentences : (start + AT_ONCE) * self.sentences + 1]
            longest[start : start + AT_ONCE] = np.diff(ends).reshape(-1, self.sentences).max(axis=1)
        return longest

    def singles(self) -> TokenTable:
        """Every sentence as an example of its own, without a label; `7/1` is the second one of example 7."""
        return replace(
            self,
            labels=torch.full((len(self) * self.sentences,), float("nan")),
            ids=SentenceIds(self.ids, self.sentences),
            sentences=1,
        )

    @cached_property
    def keys(self) -> Tensor:
        """(N * sentences,) int64: equal for sentences of equal tokens, on every machine."""
        self.touch(0, len(self.input_ids))
        flat, offsets = self.input_ids.numpy(), self.offsets.numpy()
        return torch.tensor(
            [
                int.from_bytes(hashlib.blake2b(flat[start:end].tobytes(), digest_size=8).digest(), "big", signed=True)
                for start, end in pairwise(offsets)
            ]
        )

    def sentence(self, index: int) -> Tensor:
        """(T,) int32 token ids of a sentence. Raises Damaged where they are not what was written."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        if self.touch is not untouched:
            self.touch(int(start), int(stop))
        return self.input_ids[start:stop]


class Columns:
    """Flat arrays that grow in files of a folder, so that memory does not. segments, weights: whether each example's
    second segment, and its weight, is noted."""

    def __init__(self, folder: Path, segments: bool, weights: bool = False) -> None:
        self._types = {**TYPES, **(SECONDS if segments else {}), **(WEIGHTS if weights else {})}
        self._files = {name: open(folder / name, "wb") for name in self._types}  # noqa: SIM115
        self._ends = {"offsets": 0, "id_offsets": 0}
        for name in self._ends:
            self._write(name, np.zeros(1))

    def add(
        self,
        encodings: Sequence[Encoding],
        labels: Sequence[LabelValue],
        names: Sequence[bytes],
        weights: Sequence[float],
    ) -> None:
        if "weights" in self._files:
            self._write("weights", np.array(weights, np.float32))
        tokens = [encoding.ids for encoding in encodings]
        if "seconds" in self._files:
            self._write("seconds", np.array([second_at(encoding) for encoding in encodings], np.int32))
        self._write("input_ids", np.fromiter(chain.from_iterable(tokens), np.int32))
        self._add_lengths("offsets", [len(ids) for ids in tokens])
        self._write("labels", np.array(labels))
        self._write("ids", np.frombuffer(b"".join(names), np.uint8))
        self._add_lengths("id_offsets", [len(name) for name in names])

    def _add_lengths(self, name: str, lengths: Sequence[int]) -> None:
        ends = self._ends[name] + np.cumsum(lengths)
        self._ends[name] = int(ends[-1])
        self._write(name, ends)

    def _write(self, name: str, values: NDArray[Any]) -> None:
        kind = torch.empty(0, dtype=self._types[name]).numpy().dtype
        self._files[name].write(values.astype(kind, copy=False).tobytes())

    def tensors(self) -> dict[str, Tensor]:
        """All that was added, as memory-mapped tensors; nothing can be added any more."""
        found = {}
        for name, file in self._files.items():
            file.close()
            size = Path(file.name).stat().st_size // self._types[name].itemsize
            found[name] = torch.from_file(file.name, size=size, dtype=self._types[name])
        return found


def second_at(encoding: Encoding) -> int:
    """How many tokens of a pair come before its second segment, which begins with the first token of type 1; all of
    them where the tokenizer's template makes one segment of both texts."""
    types: list[int] = encoding.type_ids
    return types.index(1) if 1 in types else len(types)


def check_segments(tokenizer: Tokenizer, where: str) -> None:
    """Raises UserError where the tokenizer's template for two texts does not make their segments follow each other."""
    types = tokenizer.encode("a", "a").type_ids
    if types != sorted(types) or {*types} - {0, 1}:
        raise UserError(f"{where}: its template for two texts has the types {types}; valid: 0s, then 1s")


def tokenize(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    max_length: int,
    folder: Path,
    joined: bool = False,
    segments: bool = False,
    numbers: int = 0,
    weights: bool = False,
    progress: Done = silent,
) -> dict[str, Tensor]:
    """A file's examples as the tensors of a TokenTable, which live in files of that folder.

    Sentences are cut to `max_length` tokens, [SEP] kept. joined: an example's two texts are one sentence, and the
    longer one is cut first. segments: they are two segments of it. numbers: how many a label has, where it has several.
    weights: whether examples' own are kept. progress: told again and again how many examples are done.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # the caller's stays as it is
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()
    columns, rest = Columns(folder, segments, weights), iter(examples)
    nothing = (float("nan"),) * numbers if numbers else float("nan")
    done = 0
    while some := list(islice(rest, CHUNK)):
        texts = [example.texts for example in some] if joined else [text for e in some for text in e.texts]
        columns.add(
            tokenizer.encode_batch_fast(texts),
            [nothing if example.label is None else example.label for example in some],
            [example.id.encode() for example in some],
            [example.weight for example in some],
        )
        done += len(some)
        progress(done)
    return columns.tensors()


def cache_tokens(
    storage: Storage,
    uri: str | Sequence[str],
    spec: TaskSpec,
    tokenizer: Tokenizer,
    *,
    labelled: bool,
    max_length: int,
    columns: Mapping[str, str | int] | None = None,
    max_bad_rows: float = 0.01,
    unlabelled: Sequence[str] = (),
    weight: str | None = None,
    progress: Done = silent,
) -> str:
    """Reads and tokenizes a data file, or several as one, unless their cache is there. Returns its path in the storage.

    unlabelled: files whose rows follow, without labels, whether or not they have a column of them. weight: the column
    that says what a row counts for in a loss. progress: told again and again how many rows are done; what it
    raises ends the reading, and nothing is left of it.

    Raises UserError as `read_examples` does, and as `check_segments`.
    """
    if spec.segments:
        check_segments(tokenizer, f"tasks.{spec.name}.pair: joined: the encoder's tokenizer")
    with Shards.opened(uri, spec, labelled, columns, max_bad_rows, unlabelled, weight) as reading:
        sha256 = reading.sha256()
        how = [
            FORMAT, sha256, tokenizer.to_str(), spec.facts(), labelled, max_length, dict(columns or {}), max_bad_rows,
        ]  # fmt: skip
        how += [len(unlabelled)] if unlabelled else []
        how += [{"weight": weight}] if weight else []
        key = hashlib.sha256(json.dumps(how, sort_keys=True, default=dict).encode()).hexdigest()[:32]
        path = f"cache/tokens/{key}.safetensors"
        if not _is_sound(storage, path):
            with tempfile.TemporaryDirectory(prefix=kept_in("tokens")) as folder:
                numbers = spec.label.outputs if labelled and KINDS[spec.label.kind].several else 0
                how_read = max_length, Path(folder), spec.joined, spec.segments, numbers, weight is not None
                tensors = tokenize(reading.examples(), tokenizer, *how_read, progress=progress)
                facts = {
                    "source": reading.source,
                    "sha256": sha256,
                    "sentences": str(spec.sentences),
                    "quarantined": json.dumps([asdict(row) for row in reading.quarantined]),
                }
                reading.check_unchanged()
                write_tensors(storage, path, tensors, facts, key)
    return path


def _is_sound(storage: Storage, path: str) -> bool:
    """Whether the cache is there; a damaged one is named in a warning."""
    if not storage.exists(path):
        return False
    try:
        _open(storage, path)
    except Damaged as error:
        log.warning("%s; made again", error)
        return False
    return True


def _open(storage: Storage, path: str) -> SealedTensors:
    return open_tensors(storage, path, Path(path).stem)


def load_tokens(storage: Storage, path: str) -> TokenTable:
    """The table at that path, memory-mapped (from a local copy where the storage is remote). Raises Damaged.

    In a large file the tokens are checked when they are first looked at; what is damaged there is removed, so that the
    next run makes it again.
    """
    file = _open(storage, path)
    tensors, facts = file.tensors, file.facts
    for name in tensors.keys() - {"input_ids"}:
        file.touch_all(name)
    labels, ids = tensors["labels"], Ids(tensors["ids"], tensors["id_offsets"])

    def touch(start: int, stop: int) -> None:
        try:
            file.touch("input_ids", start, stop)
        except Damaged as error:
            file.file.unlink(missing_ok=True)
            storage.remove(path)
            raise Damaged(f"{error}; removed: the same command makes it again") from error

    return TokenTable(
        input_ids=tensors["input_ids"],
        offsets=tensors["offsets"],
        labels=labels if len(labels) == len(ids) else labels.view(len(ids), -1),
        ids=ids,
        sentences=int(facts["sentences"]),
        source=facts["source"],
        sha256=facts["sha256"],
        quarantined=[BadRow(**row) for row in json.loads(facts["quarantined"])],
        touch=untouched if file.whole else touch,
        seconds=tensors.get("seconds"),
        weights=tensors.get("weights"),
    )
