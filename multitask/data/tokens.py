"""Tokens, made once: a data file's examples as flat arrays in one memory-mapped safetensors file.

The file lies at `<storage>/cache/tokens/<key>.safetensors`; the key hashes the data file's content, the
tokenizer and how both are read, so a cache is never stale and never has to be invalidated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from multitask.data.readers import BadRow, ReadResult, read_examples, read_file
from multitask.data.samplers import Rows
from multitask.storage import Storage
from multitask.tasks import TaskSpec

FORMAT = 1


@dataclass(frozen=True)
class TokenTable:
    """The tokens of N examples of `sentences` sentences each; sentence s of example i is i * sentences + s.

    input_ids: (L,) int32, all sentences end to end. offsets: (N * sentences + 1,) int64.
    labels: (N,) float32, nan where the file has none. ids: the N examples' own ids.
    source, sha256: the data file and its content. quarantined: its rows that were left out.
    """

    input_ids: Tensor
    offsets: Tensor
    labels: Tensor
    ids: list[str]
    sentences: int
    source: str
    sha256: str
    quarantined: list[BadRow]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sentence_lengths(self) -> Rows:
        """(N, sentences) tokens of each sentence."""
        offsets: Rows = self.offsets.numpy()
        return np.diff(offsets).reshape(-1, self.sentences)

    @cached_property
    def lengths(self) -> Rows:
        """(N,) tokens of each example's longest sentence."""
        longest: Rows = self.sentence_lengths.max(axis=1, initial=0)
        return longest

    def singles(self) -> TokenTable:
        """Every sentence as an example of its own, without a label; `7/1` is the second one of example 7."""
        return replace(
            self,
            labels=torch.full((len(self) * self.sentences,), float("nan")),
            ids=[f"{name}/{at}" for name in self.ids for at in range(self.sentences)],
            sentences=1,
        )

    @cached_property
    def keys(self) -> Tensor:
        """(N * sentences,) int64: equal for sentences of equal tokens, on every machine."""
        flat, offsets = self.input_ids.numpy(), self.offsets.numpy()
        return torch.tensor(
            [
                int.from_bytes(hashlib.blake2b(flat[start:end].tobytes(), digest_size=8).digest(), "big", signed=True)
                for start, end in pairwise(offsets)
            ]
        )

    def sentence(self, index: int) -> Tensor:
        """(T,) int32 token ids of a sentence."""
        return self.input_ids[self.offsets[index] : self.offsets[index + 1]]


def tokenize(result: ReadResult, tokenizer: Tokenizer, sentences: int, max_length: int) -> dict[str, Tensor]:
    """A file's examples as the tensors of a TokenTable. Sentences are cut to `max_length` tokens, [SEP] kept."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # the caller's stays as it is
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()
    texts = [text for example in result.examples for text in example.texts]
    encoded = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(ids) for ids in encoded], out=offsets[1:])
    flat = np.fromiter((token for ids in encoded for token in ids), np.int32, count=int(offsets[-1]))
    labels = [float("nan") if e.label is None else e.label for e in result.examples]
    names = json.dumps([example.id for example in result.examples]).encode()
    assert len(encoded) == sentences * len(result.examples)
    return {
        "input_ids": torch.from_numpy(flat),
        "offsets": torch.from_numpy(offsets),
        "labels": torch.tensor(labels, dtype=torch.float32),
        "ids": torch.frombuffer(bytearray(names), dtype=torch.uint8),
    }


def cache_tokens(
    storage: Storage,
    uri: str,
    spec: TaskSpec,
    tokenizer: Tokenizer,
    *,
    labelled: bool,
    max_length: int,
    columns: Mapping[str, str] | None = None,
    max_bad_rows: float = 0.01,
) -> str:
    """Reads and tokenizes a data file unless its cache is there. Returns the cache's path in the storage.

    Raises UserError as `read_examples` does.
    """
    data = read_file(uri)
    sha256 = hashlib.sha256(data).hexdigest()
    how = [
        FORMAT,
        sha256,
        tokenizer.to_str(),
        asdict(spec),
        labelled,
        max_length,
        dict(columns or {}),
        max_bad_rows,
    ]
    key = hashlib.sha256(json.dumps(how, sort_keys=True, default=dict).encode()).hexdigest()[:32]
    path = f"cache/tokens/{key}.safetensors"
    if not storage.exists(path):
        result = read_examples(uri, spec, labelled=labelled, columns=columns, max_bad_rows=max_bad_rows, data=data)
        facts = {
            "source": result.source,
            "sha256": result.sha256,
            "sentences": str(len(spec.columns)),
            "quarantined": json.dumps([asdict(row) for row in result.quarantined]),
        }
        tensors = tokenize(result, tokenizer, len(spec.columns), max_length)
        storage.write_bytes(path, save(tensors, metadata=facts))
    return path


def load_tokens(storage: Storage, path: str) -> TokenTable:
    """The table at that path, memory-mapped (from a local copy where the storage is remote)."""
    with safe_open(str(storage.local_file(path)), framework="pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return TokenTable(
        input_ids=tensors["input_ids"],
        offsets=tensors["offsets"],
        labels=tensors["labels"],
        ids=json.loads(tensors["ids"].numpy().tobytes()),
        sentences=int(facts["sentences"]),
        source=facts["source"],
        sha256=facts["sha256"],
        quarantined=[BadRow(**row) for row in json.loads(facts["quarantined"])],
    )
