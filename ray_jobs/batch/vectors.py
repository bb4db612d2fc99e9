"""Texts in memory -> their vectors, embedded on Ray workers: what `minibert recruit index --workers` does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from multitask.bundle.bundle import Bundle
from multitask.data.progress import Done, silent
from multitask.inference.embed import TextEncoder, Vectors
from ray_jobs.batch.input import Shard
from ray_jobs.batch.ray_data import on_ray
from ray_jobs.screen import Screen

BLOCK = 256  # texts that a worker embeds at once: some seconds of a CPU


class WorkersEncoder:
    """A bundle's encoder on some Ray workers, to be asked as a TextEncoder is."""

    def __init__(self, bundle: Bundle, workers: int, screen: Screen) -> None:
        self.bundle, self.workers, self.screen = bundle, workers, screen
        mine = TextEncoder(bundle)
        self.max_length, self.width = mine.max_length, mine.width

    def embed(self, texts: Sequence[str], progress: Done = silent) -> Vectors:
        """(N, H), each of length 1, in the texts' order, whatever order the workers answer in."""
        source, done = ListedTexts(texts, ranges(len(texts), self.workers)), 0
        found = np.zeros((len(texts), self.width), np.float32)
        for shard in on_ray(source, (), SentBack(), self.bundle, self.workers, self.screen):
            start, end = source.ranges[shard.number]
            found[start:end] = np.frombuffer(shard.vectors, np.float32).reshape(shard.rows, self.width)
            done += shard.rows
            progress(done)
        return found


def ranges(count: int, workers: int) -> list[tuple[int, int]]:
    """The numbers from 0 to `count` in ranges (start, end) of at most BLOCK: what workers embed together.

    There are at least two for each worker, so that the last one of a slow worker is short. What a text is embedded
    with shows in the last bits of its vector: an index keeps its bytes only as long as the ranges stay what they are.
    """
    block = max(1, min(BLOCK, count // (2 * workers)))
    ends = np.cumsum([len(part) for part in np.array_split(np.arange(count), max(1, count // block))]).tolist()
    starts = [0, *ends[:-1]]
    return [
        (at, min(at + block, end))
        for start, end in zip(starts, ends, strict=True)
        for at in range(start, end, block)
    ]  # fmt: skip


@dataclass(frozen=True)
class ListedTexts:
    """Texts in memory, as shards."""

    texts: Sequence[str]
    ranges: list[tuple[int, int]]
    """Start and end of the texts that each shard has."""

    def shards(self, made: Collection[int] = ()) -> Iterator[Shard]:
        """All shards, which hold every text once, in order."""
        for number, (start, end) in enumerate(self.ranges):
            yield Shard(number, texts=[list(self.texts[start:end])], rows=end - start, made=number in made)

    def first_bytes(self) -> int:
        """How many bytes the first shard's texts have."""
        return sum(len(text.encode()) for start, end in self.ranges[:1] for text in self.texts[start:end])


class SentBack:
    """The work of embedding texts, whose vectors are sent to the driver."""

    def worker(self, bundle: Bundle, device: torch.device | str) -> Callable[[Shard], None]:
        """What puts the vectors of a shard's texts into the shard."""
        encoder = TextEncoder(bundle, device)

        def embed(shard: Shard) -> None:
            shard.vectors = encoder.embed(shard.texts[0]).tobytes()

        return embed
