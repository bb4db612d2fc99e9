"""Shards of a table of texts."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.errors import UserError
from ray_jobs.batch.input import of_arrow, source_of, to_arrow
from ray_jobs.batch.vectors import BLOCK, ListedTexts, SentBack, ranges
from tests.helpers import tiny


@pytest.mark.slow
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


@pytest.mark.parametrize("same_time", [False, True])
def test_a_file_that_changes_while_it_is_read_is_said(tmp_path: Path, same_time: bool) -> None:
    """Before another shard is taken from it; where its time was put back, at its end."""
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"text {line}\n" for line in range(40)))
    source = source_of(str(file), ("text",), 10)
    shards = source.held_to(source.content()).shards()
    assert next(shards).rows == 10
    before = file.stat()
    file.write_text(file.read_text().replace("39", "xx"))
    if same_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(
        UserError, match=rf"{file}: changed while it was read \(.*{'sha256' if same_time else 'modified'}"
    ):
        list(shards)


def test_a_file_that_changed_between_two_looks_is_said(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one\ntwo\n")
    source = source_of(str(file), ("text",), 10)
    held = source.held_to(source.content())
    file.write_text("one\nxxx\n")
    with pytest.raises(UserError, match=rf"{file}: changed since the work began \(sha256 \w+ -> \w+\)"):
        list(held.shards())


@given(st.integers(0, 2000), st.integers(1, 9))
def test_texts_in_memory_are_pieces_that_hold_each_once(count: int, workers: int) -> None:
    found = ranges(count, workers)
    assert [at for start, end in found for at in range(start, end)] == list(range(count))
    assert all(0 < end - start <= BLOCK for start, end in found)
    assert len(found) >= min(count, 2 * workers)


def test_what_a_text_is_embedded_with_stays_as_it_was() -> None:
    """An index keeps its bytes: a vector's last bits depend on its neighbours."""
    assert ranges(100, 2) == [(0, 25), (25, 50), (50, 75), (75, 100)]
    assert ranges(103, 2) == [(0, 25), (25, 26), (26, 51), (51, 52), (52, 77), (77, 78), (78, 103)]
    assert ranges(3, 2) == [(0, 1), (1, 2), (2, 3)]


def test_vectors_come_back_through_arrow() -> None:
    source = ListedTexts([f"text {at}" for at in range(5)], [(0, 3), (3, 5)])
    embed = SentBack().worker(tiny(), "cpu")
    assert source.first_bytes() == 18
    for shard in source.shards():
        embed(shard)
        (again,) = of_arrow(to_arrow(shard))
        assert again == shard and len(again.vectors) == shard.rows * tiny().config.hidden_size * 4
