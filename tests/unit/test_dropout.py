"""Dropout by counting: how often, how independently, and that it follows from where a number stands alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from multitask.model.bert import MiniBert
from multitask.model.dropout import Draws, Dropout, token_keys
from multitask.model.encoding import encode
from tests.unit.test_bert import SMALL

RATE = 0.1
SENTENCES, TOKENS, UNITS = 40, 25, 384


def kept(seed: int = 1, site: str = "a", passes: int = 1, first: int = 0) -> Tensor:
    """(S, T, U) 1 where a number stays, else 0."""
    draws, dropout = Draws(seed), Dropout(RATE, site)
    for _ in range(passes):
        keys = draws.sentences(torch.arange(first, first + SENTENCES))
    return (dropout(torch.ones(SENTENCES, TOKENS, UNITS), token_keys(keys, TOKENS)) > 0).double()


def close(found: float, chance: float, count: int) -> bool:
    """Whether a share of `count` independent draws is within five standard deviations of its chance."""
    return abs(found - chance) < 5 * math.sqrt(chance * (1 - chance) / count)


@pytest.mark.parametrize("rate", [0.0001, 0.1, 0.3, 0.5, 0.9])
def test_so_many_are_dropped_and_the_mean_stays(rate: float) -> None:
    numbers = torch.ones(SENTENCES, TOKENS, UNITS, dtype=torch.float64)
    found = Dropout(rate, "a")(numbers, token_keys(Draws(1).sentences(torch.arange(SENTENCES)), TOKENS))
    assert close((found == 0).double().mean().item(), rate, found.numel())
    assert found[found > 0].unique().tolist() == [pytest.approx(1 / (1 - rate), rel=1e-12)]


@pytest.mark.parametrize("along", [0, 1, 2], ids=["sentences", "tokens", "units"])
@pytest.mark.parametrize("apart", [1, 2, 7])
def test_neighbours_are_independent(along: int, apart: int) -> None:
    mask = 1 - kept()
    both = mask.narrow(along, 0, mask.shape[along] - apart) * mask.narrow(along, apart, mask.shape[along] - apart)
    assert close(both.mean().item(), RATE**2, both.numel())


@pytest.mark.parametrize("other", [{"seed": 2}, {"site": "b"}, {"passes": 2}, {"first": SENTENCES}], ids=str)
def test_steps_sites_passes_and_sentences_are_independent(other: dict[str, int]) -> None:
    both = (1 - kept()) * (1 - kept(**other))  # type: ignore[arg-type]
    assert close(both.mean().item(), RATE**2, both.numel())


def test_no_token_and_no_unit_is_dropped_more_than_others() -> None:
    """The sums over a token's units, and over a unit's tokens, spread as those of independent draws."""
    mask = (1 - kept()).reshape(-1, UNITS)
    for sums, count in ((mask.sum(dim=1), UNITS), (mask.sum(dim=0), len(mask))):
        variance = sums.var().item() / (count * RATE * (1 - RATE))
        assert abs(variance - 1) < 6 * math.sqrt(2 / len(sums))


def test_corners_of_rectangles_are_independent() -> None:
    """Two tokens and two units: the product that the bits are made of knows both by one number each."""
    mask = (1 - kept()).reshape(-1, UNITS)
    halves = mask[:500], mask[500:]
    all_four = halves[0][:, :192] * halves[0][:, 192:] * halves[1][:, :192] * halves[1][:, 192:]
    assert close(all_four.mean().item(), RATE**4, all_four.numel())


def test_weights_of_attention_are_dropped_independently() -> None:
    keys = token_keys(Draws(1).sentences(torch.arange(8)), 20)
    mask = (Dropout(RATE, "a").of_weights(torch.ones(8, 12, 20, 20), keys, 512) == 0).double()
    assert mask.shape == (8, 12, 20, 20) and close(mask.mean().item(), RATE, mask.numel())
    for along in range(4):
        both = mask.narrow(along, 0, mask.shape[along] - 1) * mask.narrow(along, 1, mask.shape[along] - 1)
        assert close(both.mean().item(), RATE**2, both.numel())
    both = mask * mask.transpose(2, 3)
    off = both - both * torch.eye(20)
    assert close(off.sum().item() / (8 * 12 * 20 * 19), RATE**2, 8 * 12 * 10 * 19)


def sentences(numbers: list[int], longest: int) -> tuple[Tensor, Tensor]:
    lengths = [3 + number % 5 for number in numbers]
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    ids = (torch.tensor(numbers)[:, None] * 3 + torch.arange(longest)[None]) % 40 + 2
    return ids * mask, mask


@pytest.fixture(params=[("sdpa", False), ("sdpa", True), ("explicit", False), ("explicit", True)])
def bert(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MiniBert:
    """An encoder with dropout, by each kind of attention, of sentences that are padded or packed."""
    attention, packed = request.param
    monkeypatch.setattr("multitask.model.encoding.CPU_TOKENS", 12 if packed else 1000)
    config = replace(SMALL, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    return MiniBert(config, attention).init_weights(1).double().train()


def test_a_sentence_is_dropped_alike_whichever_others_it_comes_with(bert: MiniBert) -> None:
    def encoded(numbers: list[int], longest: int) -> Tensor:
        ids, mask = sentences(numbers, longest)
        keys = token_keys(Draws(7).sentences(torch.tensor(numbers)), longest)
        return encode(bert, "mean", ids, mask, keys=keys).sentence

    together = encoded(list(range(9)), 7)
    alone = torch.cat([encoded([8, 2], 7), encoded([5], 9)])
    torch.testing.assert_close(together[[8, 2, 5]], alone, atol=1e-12, rtol=0)
    assert (together[0] - bert.eval()(*sentences([0], 7))[0].mean(dim=0)).abs().max() > 0.01


def test_weights_computed_again_are_those_that_were(bert: MiniBert, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = sentences([1, 2, 3, 4], 7)
    found = []
    for least in (1, 1000):
        monkeypatch.setattr("multitask.model.attention.RECOMPUTED", least)
        bert.zero_grad()
        keys = token_keys(Draws(7).sentences(torch.arange(4)), 7)
        encode(bert, "mean", ids, mask, keys=keys).sentence.square().sum().backward()
        found.append([p.grad.clone() for p in bert.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_without_keys_it_is_of_torchs_random_state() -> None:
    bert = MiniBert(replace(SMALL, hidden_dropout_prob=0.3)).init_weights(1).train()
    ids, mask = sentences([1, 2, 3], 8)
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        found.append(encode(bert, "mean", ids, mask).sentence)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
