"""miniBERT: the numbers of transformers' BertModel, by both attention paths, padded or not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multitask.errors import UserError
from multitask.model.attention import ATTENTIONS
from multitask.model.bert import MiniBert
from multitask.model.config import PRESETS, BertConfig
from multitask.model.encoding import POOLINGS, encode
from multitask.model.sources import Source, load_source

SMALL = replace(PRESETS["tiny"], vocab_size=120, max_position_embeddings=40)


@pytest.fixture(scope="module")
def source(minilm: Path) -> Source:
    return load_source("minilm-l6")


@pytest.fixture(scope="module")
def batches(source: Source) -> list[tuple[Tensor, Tensor]]:
    """100 sentences of real words, 3 to 512 tokens, in batches of like length."""
    random = np.random.default_rng(7)
    words = [word for word in sorted(source.tokenizer.get_vocab()) if word.isalpha()]
    lengths = [*np.sort(random.integers(3, 48, 92)), 64, 96, 128, 160, 192, 256, 384, 512]
    texts = [" ".join(random.choice(words, n)) for n in lengths]
    ids = [[*source.tokenizer.encode(text).ids[: n - 1], 102] for text, n in zip(texts, lengths, strict=True)]
    starts = [*range(0, 92, 23), *range(92, 102, 2)]
    return [padded(ids[start:end]) for start, end in pairwise(starts)]


def padded(sentences: list[list[int]], extra: int = 0) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sentences)) + extra
    ids = torch.tensor([sentence + [0] * (longest - len(sentence)) for sentence in sentences])
    mask = torch.tensor([[i < len(sentence) for i in range(longest)] for sentence in sentences])
    return ids, mask


def loaded(source: Source, attention: str) -> MiniBert:
    bert = MiniBert(source.config, attention)
    bert.load_state_dict(source.state)
    return bert.eval()


@pytest.fixture(scope="module")
def reference(minilm: Path, batches: list[tuple[Tensor, Tensor]]) -> list[Any]:
    """What transformers makes of the batches."""
    reason = "parity needs transformers 5.23 (a test-only dependency)"
    transformers = pytest.importorskip("transformers", reason=reason)
    model = transformers.BertModel.from_pretrained(minilm).eval()
    with torch.inference_mode():
        return [model(input_ids=ids, attention_mask=mask.long()) for ids, mask in batches]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_equals_transformers_on_100_sentences(
    source: Source, batches: list[tuple[Tensor, Tensor]], reference: list[Any], attention: str
) -> None:
    bert = loaded(source, attention)
    assert sum(len(ids) for ids, _ in batches) == 100
    assert max(int(mask.sum(1).max()) for _, mask in batches) == 512
    with torch.inference_mode():
        for (ids, mask), theirs in zip(batches, reference, strict=True):
            hidden = bert(ids, mask)
            torch.testing.assert_close(hidden[mask], theirs.last_hidden_state[mask], atol=1e-5, rtol=0)
            torch.testing.assert_close(bert.pool(hidden), theirs.pooler_output, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_changes_nothing(source: Source, batches: list[tuple[Tensor, Tensor]], attention: str) -> None:
    bert = loaded(source, attention)
    sentences = [ids[0][mask[0]].tolist() for ids, mask in batches[:6]]
    ids, mask = padded(sentences, extra=5)
    with torch.inference_mode():
        together = bert(ids, mask)
        for i, sentence in enumerate(sentences):
            alone_ids, alone_mask = padded([sentence])
            alone = bert(alone_ids, alone_mask)
            torch.testing.assert_close(together[i, : len(sentence)], alone[0], atol=1e-5, rtol=0)
            for pool in POOLINGS.values():
                expected = pool(bert, alone, alone_mask)[0]
                torch.testing.assert_close(pool(bert, together, mask)[i], expected, atol=1e-5, rtol=0)


def test_both_attention_paths_give_the_same_states_and_gradients() -> None:
    ids, mask = padded([[2, 17, 30, 3], [2, 5, 3]])
    gradients = []
    for attention in ATTENTIONS:
        bert = MiniBert(SMALL, attention).init_weights(1).double().eval()
        bert(ids, mask)[mask].square().sum().backward()
        gradients.append([p.grad for name, p in bert.named_parameters() if "pooler" not in name])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_dropout_of_both_paths_acts_in_training_only(attention: str) -> None:
    config = replace(SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    bert = MiniBert(config, attention).init_weights(1)
    ids, mask = padded([list(range(2, 30))])
    assert not torch.equal(bert.train()(ids, mask), bert(ids, mask))
    assert torch.equal(bert.eval()(ids, mask), bert(ids, mask))


def test_poolings_by_hand() -> None:
    bert = MiniBert(SMALL).init_weights(0).eval()
    hidden = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    mean = POOLINGS["mean"](bert, hidden, mask)
    torch.testing.assert_close(mean[0], (hidden[0, 0] + hidden[0, 1]) / 2)
    torch.testing.assert_close(mean[1], hidden[1].mean(0))
    assert torch.equal(POOLINGS["cls"](bert, hidden, mask), hidden[:, 0])
    weight, bias = bert.pooler["dense"].weight, bert.pooler["dense"].bias
    torch.testing.assert_close(POOLINGS["pooler"](bert, hidden, mask), torch.tanh(hidden[:, 0] @ weight.T + bias))


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> tuple[MiniBert, Tensor, Tensor, Tensor]:
    """A model that encodes eight sentences packed (one is longer than a group), the sentences, noise for them."""
    monkeypatch.setattr("multitask.model.encoding.CPU_TOKENS", 12)
    ids, mask = padded([list(range(2, 2 + length)) for length in (3, 9, 2, 7, 7, 1, 14, 4)])
    noise = torch.randn(*ids.shape, SMALL.hidden_size, generator=torch.Generator().manual_seed(3))
    return MiniBert(SMALL).init_weights(2).double().eval(), ids, mask, noise.double()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_equals_padded_with_noise(noisy: tuple[MiniBert, Tensor, Tensor, Tensor], pooling: str) -> None:
    bert, ids, mask, noise = noisy
    packed = encode(bert, pooling, ids, mask, noise)
    padded_states = bert(ids, mask, noise)
    torch.testing.assert_close(packed.tokens[mask], padded_states[mask])
    torch.testing.assert_close(packed.sentence, POOLINGS[pooling](bert, padded_states, mask))
    assert not torch.allclose(packed.sentence, encode(bert, pooling, ids, mask).sentence, atol=1e-3)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(1, 80), st.sampled_from(list(ATTENTIONS)))
def test_packed_gradients_are_those_of_padded_ones(lengths: list[int], most: int, attention: str) -> None:
    ids, mask = padded([[at % 50 + 2 for at in range(length)] for length in sorted(lengths, reverse=True)])
    bert = MiniBert(SMALL, attention).init_weights(4).double().eval()
    weights = torch.randn(int(mask.sum()), SMALL.hidden_size, generator=torch.Generator().manual_seed(5)).double()
    gradients = []
    for states in (bert(ids, mask)[mask], bert.packed(ids, mask, None, most)):
        bert.zero_grad()
        (states * weights).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in bert.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 30
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-9, rtol=1e-7)


def test_zero_noise_is_no_noise(noisy: tuple[MiniBert, Tensor, Tensor, Tensor]) -> None:
    bert, ids, mask, noise = noisy
    zero, none = encode(bert, "mean", ids, mask, torch.zeros_like(noise)), encode(bert, "mean", ids, mask)
    assert torch.equal(zero.sentence, none.sentence) and torch.equal(zero.tokens, none.tokens)


def test_gradients_reach_the_noise_of_tokens_alone(noisy: tuple[MiniBert, Tensor, Tensor, Tensor]) -> None:
    bert, ids, mask, noise = noisy
    noise.requires_grad_()
    (gradient,) = torch.autograd.grad(encode(bert, "mean", ids, mask, noise).sentence.square().sum(), noise)
    assert gradient[mask].abs().amax(dim=-1).gt(0).all()
    assert gradient[~mask].eq(0).all()


def test_noise_is_added_after_the_embeddings_norm_and_dropout(noisy: tuple[MiniBert, Tensor, Tensor, Tensor]) -> None:
    bert, ids, mask, noise = noisy
    seen: list[Tensor] = []
    bert.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    bert(ids, mask, noise)
    torch.testing.assert_close(seen[0], bert.embeddings(ids, torch.arange(ids.shape[1])) + noise)


def test_int32_ids_and_integer_masks_are_welcome() -> None:
    bert = MiniBert(SMALL).init_weights(0).eval()
    ids, mask = padded([[2, 17, 3], [2, 3]])
    narrow, wide = encode(bert, "mean", ids.int(), mask.int()), encode(bert, "mean", ids, mask)
    assert torch.equal(narrow.sentence, wide.sentence) and torch.equal(narrow.tokens, wide.tokens)
    assert narrow.mask.dtype == torch.bool


def test_first_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (MiniBert(SMALL).init_weights(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    words = "embeddings.word_embeddings.weight"
    assert not torch.equal(first[words], other[words])
    assert first[words].std().item() == pytest.approx(0.02, rel=0.05)
    assert first["encoder.layer.0.attention.output.LayerNorm.weight"].eq(1).all()
    assert first["pooler.dense.bias"].eq(0).all()


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"41 tokens.*positions for 40"):
        MiniBert(SMALL)(torch.ones(1, 41, dtype=torch.long), torch.ones(1, 41, dtype=torch.bool))


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_its_dict(name: str) -> None:
    assert BertConfig.from_dict(PRESETS[name].to_dict(), "here") == PRESETS[name]


def test_preset_is_the_packaged_encoders_config(source: Source) -> None:
    assert source.config == PRESETS["minilm-l6"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, r"here: model_type is 'roberta'; valid: 'bert'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_act": "laplace"}, "hidden_act is 'laplace'; valid: 'gelu'"),
        ({"hidden_size": 65}, "multiple of num_attention_heads, 2"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is 1.5"),
    ],
)
def test_other_architectures_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BertConfig.from_dict({**SMALL.to_dict(), **change}, "here")


def test_a_config_without_its_sizes_is_refused() -> None:
    with pytest.raises(UserError, match="here: missing vocab_size, hidden_size"):
        BertConfig.from_dict({"model_type": "bert"}, "here")
