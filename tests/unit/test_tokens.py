"""Tokens, made once by content, and the batches cut from them."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from multitask.data import tokens
from multitask.data.batches import Batch, EpochSlices, Features, collate, stacked
from multitask.data.readers import Example
from multitask.data.samplers import EpochBatches, Rows
from multitask.data.tokens import TokenTable, cache_tokens, load_tokens, tokenize
from multitask.errors import UserError
from multitask.model.sources import TINY_TOKENIZER
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS

SST, QUORA = TASKS["sst"], TASKS["quora"]
SST_FILE = "\tid\tsentence\tsentiment\n0\ta\ta fine film\t3\n1\tb\tdull\t1\n"
QUORA_FILE = "\tid\tsentence1\tsentence2\tis_duplicate\n" + "".join(
    f"{i}\tq{i}\thow do i learn {'chess ' * (i % 5)}\t{'why ' * (i % 3)}is it so\t{i % 2}.0\n" for i in range(11)
)


def tiny() -> Tokenizer:
    return Tokenizer.from_file(str(TINY_TOKENIZER))


@functools.cache
def special() -> tuple[int, int]:
    return tiny().token_to_id("[CLS]"), tiny().token_to_id("[SEP]")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "runs"))


@pytest.fixture
def sst(tmp_path: Path) -> str:
    return write(tmp_path / "data" / "sst.csv", SST_FILE)


@pytest.fixture
def table(tmp_path: Path, storage: Storage) -> TokenTable:
    uri = write(tmp_path / "quora.csv", QUORA_FILE)
    return load_tokens(storage, cache_tokens(storage, uri, QUORA, tiny(), labelled=True, max_length=64))


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def cached(storage: Storage, uri: str, tokenizer: Tokenizer | None = None, **options) -> str:
    given = {"labelled": True, "max_length": 64, **options}
    return cache_tokens(storage, uri, SST, tokenizer or tiny(), **given)


def test_a_table_holds_what_the_file_says(storage: Storage, sst: str) -> None:
    table = load_tokens(storage, cached(storage, sst))
    assert len(table) == 2
    assert list(table.ids) == ["a", "b"]
    assert table.labels.tolist() == [3.0, 1.0]
    assert [table.sentence(i).tolist() for i in range(2)] == [
        tiny().encode(text).ids for text in ("a fine film", "dull")
    ]
    assert table.lengths.tolist() == [len(table.sentence(0)), len(table.sentence(1))]
    assert (table.source, table.sha256) == (sst, hashlib.sha256(SST_FILE.encode()).hexdigest())
    assert table.quarantined == []


def test_quarantined_rows_are_remembered(tmp_path: Path, storage: Storage) -> None:
    uri = write(tmp_path / "sst.csv", SST_FILE + "2\tc\t\t1\n")
    table = load_tokens(storage, cached(storage, uri, max_bad_rows=0.5))
    assert len(table) == 2
    assert [(row.line, row.reason) for row in table.quarantined] == [(4, "sentence is empty")]
    with pytest.raises(UserError, match="max_bad_rows"):
        cached(storage, uri, max_bad_rows=0.1)


def test_a_file_without_labels_has_none(storage: Storage, sst: str) -> None:
    assert load_tokens(storage, cached(storage, sst, labelled=False)).labels.isnan().all()


def test_the_cache_is_by_content_not_by_path(tmp_path: Path, storage: Storage, sst: str) -> None:
    path = cached(storage, sst)
    assert cached(storage, write(tmp_path / "elsewhere" / "copy.csv", SST_FILE)) == path
    assert storage.list("cache/tokens") == [path.rsplit("/", 1)[-1]]
    assert cached(storage, write(tmp_path / "data" / "sst.csv", SST_FILE.replace("dull", "duller"))) != path


def test_the_cache_is_by_all_that_changes_the_tokens(storage: Storage, sst: str) -> None:
    other = tiny()
    other.add_tokens(["film!"])
    paths = [
        cached(storage, sst),
        cached(storage, sst, max_length=16),
        cached(storage, sst, labelled=False),
        cached(storage, sst, columns={"id": "id"}),
        cached(storage, sst, tokenizer=other),
    ]
    assert len(set(paths)) == len(paths)


def test_a_cache_is_made_once(storage: Storage, sst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cached(storage, sst)

    def refuse(*_: object) -> None:
        raise AssertionError("tokenized again")

    monkeypatch.setattr("multitask.data.tokens.tokenize", refuse)
    assert cached(storage, sst) == path


def test_a_tokenizer_that_was_used_before_gives_the_same_cache(storage: Storage, sst: str) -> None:
    tokenizer = tiny()
    assert cached(storage, sst, tokenizer) == cached(storage, sst, tokenizer)


def test_ids_are_those_of_the_file_also_beyond_ascii(tmp_path: Path, storage: Storage) -> None:
    names = ["a", "größe", "7"] * 3
    rows = "".join(f"{at}\t{name}\tfine\t1\n" for at, name in enumerate(names))
    table = load_tokens(storage, cached(storage, write(tmp_path / "ids.csv", f"\tid\tsentence\tsentiment\n{rows}")))
    assert list(table.ids) == names
    assert (table.ids[-1], table.ids[1:3]) == ("7", ["größe", "7"])
    with pytest.raises(IndexError, match="id 9 of 9"):
        table.ids[9]


def test_a_file_of_many_chunks_is_that_of_one(
    tmp_path: Path, storage: Storage, sst: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = write(tmp_path / "many.csv", SST_FILE + "".join(f"{at}\tr{at}\tgood {at}\t2\n" for at in range(2, 20)))
    whole = load_tokens(storage, cached(storage, uri))
    monkeypatch.setattr("multitask.data.tokens.CHUNK", 3)
    parts = load_tokens(storage.at("other"), cached(storage.at("other"), uri))
    assert list(parts.ids) == list(whole.ids)
    for name in ("input_ids", "offsets", "labels"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name


def test_a_remote_storage_gives_the_same_table(storage: Storage, sst: str, tmp_path: Path) -> None:
    remote = Storage(f"memory://tokens{tmp_path}")
    tables = [load_tokens(place, cached(place, sst)) for place in (storage, remote)]
    assert torch.equal(tables[0].input_ids, tables[1].input_ids)
    assert torch.equal(tables[0].offsets, tables[1].offsets)
    assert list(tables[0].ids) == list(tables[1].ids)


@settings(max_examples=50)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=6), st.integers(8, 24))
def test_sentences_are_cut_to_max_length_and_keep_their_sep(texts: list[str], max_length: int) -> None:
    examples = (Example(str(i), (text,), 0.0) for i, text in enumerate(texts))
    with tempfile.TemporaryDirectory() as folder:
        tensors = tokenize(examples, tiny(), max_length, Path(folder))
    offsets = tensors["offsets"].tolist()
    assert (offsets[0], offsets[-1]) == (0, len(tensors["input_ids"]))
    for text, start, end in zip(texts, offsets, offsets[1:], strict=False):
        ids = tensors["input_ids"][start:end].tolist()
        whole = tiny().encode(text).ids
        assert (ids[0], ids[-1]) == special()
        assert ids[:-1] == whole[: max_length - 1][: len(ids) - 1]
        assert len(ids) == min(len(whole), max_length)


@pytest.mark.parametrize("at_once", [1, 4, 11, 1 << 20])
def test_a_pairs_length_is_that_of_its_longer_sentence(
    table: TokenTable, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "AT_ONCE", at_once)
    table = replace(table)  # which has not computed them yet
    assert table.sentences == 2
    assert table.lengths.tolist() == [
        max(len(table.sentence(2 * i)), len(table.sentence(2 * i + 1))) for i in range(11)
    ]


def test_all_first_sentences_come_before_all_second_ones() -> None:
    assert stacked(np.array([4, 1]), 2).tolist() == [8, 2, 9, 3]
    assert stacked(np.array([4, 1]), 1).tolist() == [4, 1]


def batch_of(table: TokenTable, rows: Rows, features: Features | None = None) -> Batch:
    return collate("quora", table, rows, np.ones(len(rows), np.float32), features)


def test_a_batch_is_padded_to_its_longest_sentence(table: TokenTable) -> None:
    rows = np.array([4, 0, 7])
    batch = batch_of(table, rows)
    width = int(table.lengths[rows].max())
    assert len(batch) == 3
    assert batch.input_ids.shape == batch.mask.shape == (6, width)
    assert (batch.input_ids.dtype, batch.mask.dtype) == (torch.int64, torch.bool)
    for row, index in enumerate([8, 0, 14, 9, 1, 15]):
        sentence = table.sentence(index).tolist()
        assert batch.input_ids[row].tolist() == sentence + [0] * (width - len(sentence))
        assert batch.mask[row].sum() == len(sentence)
        assert batch.mask[row, : len(sentence)].all()
    assert batch.labels.tolist() == [0.0, 0.0, 1.0]
    assert batch.rows.tolist() == [4, 0, 7]
    assert batch.weights.tolist() == [1.0, 1.0, 1.0]
    assert batch.features is None


def test_features_stand_in_for_tokens(table: TokenTable) -> None:
    places = torch.full((22,), -1)
    places[[2, 3, 8, 9]] = torch.tensor([3, 2, 1, 0])  # only those of the examples 1 and 4
    values = torch.tensor([9.0, 8.0, 3.0, 2.0])[:, None].expand(4, 3)
    batch = batch_of(table, np.array([4, 1]), Features(values, places))
    assert batch.features is not None
    assert batch.features[:, 0].tolist() == [8.0, 2.0, 9.0, 3.0]
    assert batch.input_ids.numel() == batch.mask.numel() == 0
    assert batch.labels.tolist() == [0.0, 1.0]


def test_a_batch_moves_whole_and_keeps_its_task(table: TokenTable) -> None:
    moved = batch_of(table, np.array([1, 2]), Features(torch.ones(22, 3), torch.arange(22))).to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 7
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.task == "quora"


def slices(table: TokenTable, batches: list[Rows], rank: int, world: int) -> EpochSlices:
    plan = [("quora", batch) for batch in batches]
    return EpochSlices(plan, lambda task, rows, weights, _: collate(task, table, rows, weights), rank=rank, world=world)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_ranks_of_an_epoch_see_every_row_once(table: TokenTable, world: int) -> None:
    batches = EpochBatches(table.lengths, 4, seed=1)
    ranks = [slices(table, batches, rank, world) for rank in range(world)]
    assert {len(epoch) for epoch in ranks} == {3}
    seen = [
        int(row)
        for epoch in ranks
        for batch in map(epoch.__getitem__, range(3))
        for row in batch.rows[batch.weights > 0]
    ]
    assert sorted(seen) == list(range(11))


def test_a_slice_is_of_its_batchs_task(table: TokenTable) -> None:
    made: list[tuple[str, list[int], int]] = []

    def make(task: str, rows: Rows, weights: np.ndarray, step: int) -> Batch:
        made.append((task, rows.tolist(), step))
        return collate(task, table, rows, weights)

    plan = [("quora", np.array([4, 1, 7])), ("sts", np.array([2]))]
    epoch = EpochSlices(plan, make, rank=1, world=2)
    assert [epoch[at].task for at in range(2)] == ["quora", "sts"]
    assert made == [("quora", [1], 0), ("sts", [2], 1)]
    assert epoch[1].weights.tolist() == [0.0]  # the other rank has the one row
    rest = EpochSlices(plan, make, rank=0, world=2, start=1)
    assert (len(rest), rest[0].task, made[-1]) == (1, "sts", ("sts", [2], 1))  # it is still the epoch's second step


def test_further_sentences_follow_those_of_the_examples(table: TokenTable) -> None:
    batch = collate("quora", table, np.array([4, 1]), np.ones(2, np.float32), more=np.array([20]))
    assert len(batch) == 2
    for row, index in enumerate([8, 2, 9, 3, 20]):
        assert batch.input_ids[row][batch.mask[row]].tolist() == table.sentence(index).tolist()


def test_every_sentence_is_an_example_of_its_own(table: TokenTable) -> None:
    singles = table.singles()
    assert (len(singles), singles.sentences) == (22, 1)
    assert singles.ids[:3] == ["q0/0", "q0/1", "q1/0"]
    assert singles.labels.isnan().all()
    assert singles.lengths.tolist() == table.offsets.diff().tolist()
    for index in range(22):
        assert singles.sentence(index).tolist() == table.sentence(index).tolist()


def test_keys_are_equal_where_sentences_are(table: TokenTable) -> None:
    sentences = [tuple(table.sentence(index).tolist()) for index in range(22)]
    keys = table.keys.tolist()
    assert table.keys.dtype == torch.int64
    assert len(set(sentences)) == len(set(keys)) == 8  # five first sentences, three second ones
    assert len(set(zip(sentences, keys, strict=True))) == 8


def test_a_key_is_the_same_on_every_machine(storage: Storage, sst: str) -> None:
    assert load_tokens(storage, cached(storage, sst)).keys.tolist() == [-8631193512524852803, -8493088668224204901]
