"""Masking: how many tokens are hidden and behind what, by the sentence and its seed alone (mlm-mnrl.txt, 4.2)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from multitask.data.batches import Batch, collate
from multitask.data.masking import NO_TARGET, REPLACE, Masking
from multitask.data.tokens import TokenTable
from multitask.errors import UserError
from multitask.model.tokenizer_files import words_of
from tests.helpers import MASK, ORDINARY, SPECIALS, VOCABULARY, objective_of, random_sentences, table_of, tiny


def masking(replace: str = "mask", rate: float = 0.15) -> Masking:
    return Masking.of(tiny().tokenizer, rate, replace)


def batch_of(table: TokenTable, rows: list[int] | None = None, weights: list[float] | None = None) -> Batch:
    rows = list(range(len(table))) if rows is None else rows
    return collate("sst", table, np.array(rows), np.array(weights or [1.0] * len(rows), np.float32))


def big() -> tuple[Batch, Batch, Tensor]:
    """Some 150,000 tokens before and after masking, and which of them may be hidden."""
    table = table_of(random_sentences(1500, low=80, high=120), [0.0] * 1500, per=1)
    before = batch_of(table)
    after = masking("bert").apply(before, range(1500))
    return before, after, before.mask & ~torch.isin(before.input_ids, torch.tensor(SPECIALS))


def within_3_sigma(hits: int, of: int, rate: float) -> bool:
    return abs(hits - of * rate) < 3 * math.sqrt(of * rate * (1 - rate))


def test_each_token_is_hidden_by_itself_at_the_rate() -> None:
    _, after, ordinary = big()
    chosen = after.targets != NO_TARGET
    count = int(ordinary.sum())
    assert count > 100_000
    assert not (chosen & ~ordinary).any()
    assert within_3_sigma(int(chosen.sum()), count, 0.15)
    neighbours, both = ordinary[:, 1:] & ordinary[:, :-1], chosen[:, 1:] & chosen[:, :-1]
    share = 0.15**2
    spread = math.sqrt(int(neighbours.sum()) * (share - 3 * share**2 + 2 * 0.15**3))  # neighbouring pairs overlap
    assert abs(int(both.sum()) - int(neighbours.sum()) * share) < 3 * spread


def test_berts_replacements_are_80_10_10() -> None:
    before, after, _ = big()
    chosen = after.targets != NO_TARGET
    hidden, was = after.input_ids[chosen], before.input_ids[chosen]
    assert within_3_sigma(int((hidden == MASK).sum()), len(was), 0.8)
    # A random token may be the one that it replaces.
    assert within_3_sigma(int((hidden == was).sum()), len(was), 0.1 + 0.1 / len(ORDINARY))
    others = hidden[(hidden != MASK) & (hidden != was)]
    assert not torch.isin(others, torch.tensor(SPECIALS)).any()
    assert len(others.unique()) > 0.6 * len(ORDINARY)  # 1 - 1/e of them, and not the first few
    assert others.max() > 0.99 * VOCABULARY
    assert torch.equal(after.input_ids[~chosen], before.input_ids[~chosen])
    assert torch.equal(after.targets[chosen], was)


@settings(max_examples=30)
@given(st.sampled_from(sorted(REPLACE)), st.floats(0.01, 0.99), st.integers(0, 99))
def test_special_tokens_and_padding_never_are(replace: str, rate: float, seed: int) -> None:
    batch = batch_of(table_of(random_sentences(6, seed), [0.0] * 6, per=1))
    after = masking(replace, rate).apply(batch, range(seed, seed + 6))
    fixed = torch.isin(batch.input_ids, torch.tensor(SPECIALS)) | ~batch.mask
    assert (after.targets[fixed] == NO_TARGET).all()
    assert torch.equal(after.input_ids[fixed], batch.input_ids[fixed])
    assert torch.equal(after.mask, batch.mask)
    if replace == "mask":
        assert (after.input_ids[after.targets != NO_TARGET] == MASK).all()


@settings(max_examples=30)
@given(st.sampled_from(sorted(REPLACE)), st.permutations(range(8)), st.integers(0, 999))
def test_a_sentences_masks_do_not_depend_on_its_batch(replace: str, rows: list[int], seed: int) -> None:
    table = table_of(random_sentences(8, seed), [0.0] * 8, per=1)
    hide = masking(replace, 0.4)
    together = hide.apply(batch_of(table, rows), [seed + row for row in rows])
    for at, row in enumerate(rows):
        alone = hide.apply(batch_of(table, [row]), [seed + row])
        length = alone.input_ids.shape[1]  # without padding
        assert torch.equal(together.input_ids[at, :length], alone.input_ids[0])
        assert torch.equal(together.targets[at, :length], alone.targets[0])


def test_the_same_seed_hides_the_same_and_another_others() -> None:
    batch = batch_of(table_of(random_sentences(20), [0.0] * 20, per=1))
    one, two, other = (masking().apply(batch, range(start, start + 20)) for start in (0, 0, 20))
    assert torch.equal(one.targets, two.targets)
    assert not torch.equal(one.targets, other.targets)


def test_a_sentence_that_is_left_out_has_nothing_to_hide() -> None:
    table = table_of(random_sentences(2, low=30), [0.0] * 2, per=1)
    after = masking(rate=0.5).apply(batch_of(table, weights=[0.0, 1.0]), [1, 2])
    assert (after.targets[0] == NO_TARGET).all()
    assert (after.targets[1] != NO_TARGET).any()


def test_a_tokenizer_without_mask_is_refused() -> None:
    vocabulary = {token: at for at, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])}
    with pytest.raises(UserError, match=r"objective mlm: .*no \[MASK\]"):
        Masking.of(Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")), 0.15, "mask")


def test_what_is_special_elsewhere_is_neither_hidden_nor_drawn() -> None:
    """Added special tokens, tokens by XLM-R's names, numbers that no token has."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "<s>": 2, "</s>": 3, "<mask>": 4, "a": 5, "[E1]": 7, "b": 9, "": 10}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["<s>", "</s>", "<mask>", "[E1]"])
    made = Masking.of(tokenizer, 0.5, "bert")
    assert made.mask_id == 4
    assert torch.nonzero(~made.special).flatten().tolist() == [5, 9]


def test_a_repeated_line_of_vocab_txt_leaves_a_number_out() -> None:
    """Seven numbers for six tokens: the count of tokens is not where the numbers end."""
    words = words_of(b"[PAD]\n[UNK]\n[CLS]\na\n[MASK]\na\nb\n", "vocab.txt")
    made = Masking.of(Tokenizer(WordLevel(words, unk_token="[UNK]")), 1.0, "mask")
    table = table_of([[2, 5, 6]], [0.0], per=1)
    assert made.apply(batch_of(table), [1]).input_ids.tolist() == [[2, 4, 4]]
    assert made.special.tolist() == [True, True, True, True, True, False, False]


def stage_masks(rows: list[int], when: str, **stage: object) -> dict[int, list[int]]:
    """Row -> its sentence's targets, as a stage's objective makes them."""
    table = table_of(random_sentences(8, low=20), [0.0] * 8, per=1)
    objective = objective_of({"sst": table}, objective="mlm", **stage)
    batch = objective.batch("sst", np.array(rows), np.ones(len(rows), np.float32), when)
    return {row: batch.targets[at][batch.mask[at]].tolist() for at, row in enumerate(rows)}


def test_a_stages_masks_are_keyed_by_example_and_epoch_never_by_rank() -> None:
    whole = stage_masks(list(range(8)), when="epoch 0")
    assert {**stage_masks([6, 0, 2, 4], when="epoch 0"), **stage_masks([1, 7, 5, 3], when="epoch 0")} == whole
    assert stage_masks(list(range(8)), when="epoch 1") != whole
    assert stage_masks(list(range(8)), when="epoch 0", name="another") != whole
    assert stage_masks(list(range(8)), when="epoch 0", mlm={"rate": 0.5}) != whole
