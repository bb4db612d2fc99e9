"""The examples' own ids without a Python string for each: they are made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from torch import Tensor


class _Strings(Sequence[str]):
    """What Ids and SentenceIds share: a sequence of strings, made from `__len__` and `name`."""

    def name(self, index: int) -> str:
        raise NotImplementedError(f"{type(self).__name__}.name")

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.name(at) for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"id {index} of {len(self)}")
        return self.name(at)


@dataclass(frozen=True, eq=False)
class Ids(_Strings):
    """N examples' own ids.

    text: (C,) uint8, all ids end to end in UTF-8. offsets: (N + 1,) int64, where each begins.
    """

    text: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def name(self, index: int) -> str:
        start, end = self.offsets[index : index + 2].tolist()
        return self.text[start:end].numpy().tobytes().decode()


@dataclass(frozen=True, eq=False)
class SentenceIds(_Strings):
    """`7/1` is the second sentence of example 7."""

    examples: Sequence[str]
    sentences: int

    def __len__(self) -> int:
        return len(self.examples) * self.sentences

    def name(self, index: int) -> str:
        return f"{self.examples[index // self.sentences]}/{index % self.sentences}"
