"""Shards of a table of texts."""

from __future__ import annotations

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.errors import UserError
from ray_jobs.batch.input import of_arrow, source_of, to_arrow


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(1, 7), st.sets(st.integers(0, 8)))
def test_shards_hold_every_row_once_in_order(sizes: list[int], rows: int, made: set[int]) -> None:
    fs = fsspec.filesystem("memory")
    if fs.exists("/shards"):
        fs.rm("/shards", recursive=True)
    for at, size in enumerate(sizes):
        fs.pipe(f"/shards/{at}.txt", "".join(f"{at} {line}\n\n" for line in range(size)).encode())
    expected = [f"{at} {line}" for at, size in enumerate(sizes) for line in range(size)]
    if not expected:
        with pytest.raises(UserError, match=r"no usable row|no file fits"):
            list(source_of("memory://shards/*.txt", ("text",), rows).shards())
        return
    source = source_of("memory://shards/*.txt", ("text",), rows)
    shards = list(source.shards())
    assert [text for shard in shards for text in shard.texts[0]] == expected
    assert [shard.number for shard in shards] == list(range(-(-len(expected) // rows)))
    assert all(shard.rows == len(shard.ids) == len(shard.files) == rows for shard in shards[:-1])
    again = list(source.shards(made))
    for one, other in zip(shards, again, strict=True):
        assert (one.number, one.rows) == (other.number, other.rows) and other.made == (one.number in made)
        assert other.texts == ([[]] if other.made else one.texts)
        assert of_arrow(to_arrow(other)) == [other]
