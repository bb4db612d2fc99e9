"""Heads: by hand, for the tasks they can serve, from a generator alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from multitask.errors import UserError
from multitask.model.encoding import Encoding
from multitask.model.heads import HEADS, build_head, loss_for
from multitask.model.multitask import text_means
from multitask.objectives.losses import LOSSES
from multitask.tasks.labels import KINDS, KindName, LabelSpec
from multitask.tasks.table import TASKS

H = 4
SERVED = [(head, task) for head, spec in HEADS.items() for task in TASKS.values() if spec.serves(task)]


def encoding(rows: list[list[float]]) -> Encoding:
    sentence = torch.tensor(rows)
    return Encoding(sentence, sentence[:, None], torch.ones(len(rows), 1, dtype=torch.bool))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


U = encoding([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 0.0, -1.0]])
V = encoding([[2.0, 0.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


@pytest.mark.parametrize(("name", "task"), SERVED, ids=lambda value: getattr(value, "name", value))
def test_every_head_gives_its_tasks_shape_and_trains(name: str, task) -> None:
    head = build_head(name, H, task, generator())
    outputs = head(U, V if len(task.columns) == 2 else None)
    assert outputs.shape == ((2, task.label.outputs) if task.label.kind == "classes" else (2,))
    assert KINDS[task.label.kind].prediction(outputs, task.label).shape == (2,)
    loss = LOSSES[loss_for(name, task, None, "here")].sums(outputs, torch.tensor([1.0, 0.0]), torch.ones(2))[0]
    assert loss.isfinite()
    for parameter in head.parameters():
        assert torch.autograd.grad(loss, parameter, retain_graph=True)[0].isfinite().all()
    assert head.uses_tokens is (name == "bilstm")


def weights(head: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in head.parameters()]


def test_linear_by_hand() -> None:
    head = build_head("linear", H, TASKS["sst"], generator())
    weight, bias = weights(head)
    assert weight.shape == (5, H)
    torch.testing.assert_close(head(U), U.sentence @ weight.T + bias)

    head = build_head("linear", H, TASKS["quora"], generator())
    weight, bias = weights(head)
    assert weight.shape == (1, 2 * H)
    by_hand = U.sentence @ weight[0, :H] + V.sentence @ weight[0, H:] + bias
    torch.testing.assert_close(head(U, V), by_hand)


def test_mlp_by_hand() -> None:
    """The sizes of bertaar.txt, 5.1: h, h/2, classes for a sentence; 2h, h, 1 for a pair."""
    head = build_head("mlp", H, TASKS["sst"], generator())
    w1, b1, w2, b2 = weights(head)
    assert [tuple(w.shape) for w in (w1, w2)] == [(H // 2, H), (5, H // 2)]
    torch.testing.assert_close(head(U), (U.sentence @ w1.T + b1).clamp(min=0) @ w2.T + b2)

    head = build_head("mlp", H, TASKS["sts"], generator())
    w1, b1, w2, b2 = weights(head)
    assert [tuple(w.shape) for w in (w1, w2)] == [(H, 2 * H), (1, H)]
    pair = torch.cat([U.sentence, V.sentence], 1)
    torch.testing.assert_close(head(U, V), ((pair @ w1.T + b1).clamp(min=0) @ w2.T + b2)[:, 0])


def test_cosine_by_hand() -> None:
    head = build_head("cosine", 2, TASKS["sts"], generator())
    first = encoding([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    second = encoding([[4.0, 3.0], [-1.0, 0.5], [7.0, 7.0]])
    torch.testing.assert_close(head(first, second), torch.tensor([5 * 24 / 25, 0.0, 5.0]))
    assert not list(head.parameters())
    unit = replace(TASKS["sts"], label=LabelSpec("score", "similarity", 0, 1))
    torch.testing.assert_close(
        build_head("cosine", 2, unit, generator())(first, second), torch.tensor([24 / 25, 0.0, 1.0])
    )


def test_the_default_heads_are_those_of_mlm_mnrl() -> None:
    """mlm-mnrl.txt, 4.1: u -> 5 units; [u, v] -> 1 unit; 5 ReLU(cos(u, v))."""
    u, v = U.sentence, V.sentence
    sst, quora, sts = (build_head(TASKS[name].head, H, TASKS[name], generator()) for name in ("sst", "quora", "sts"))

    weight, bias = weights(sst)
    five_units = torch.stack([(u * weight[unit]).sum(dim=1) + bias[unit] for unit in range(5)], dim=1)
    torch.testing.assert_close(sst(U), five_units)

    weight, bias = weights(quora)
    torch.testing.assert_close(quora(U, V), (torch.cat([u, v], 1) * weight[0]).sum(dim=1) + bias[0])

    cosine = (u * v).sum(dim=1) / (u.square().sum(dim=1).sqrt() * v.square().sum(dim=1).sqrt())
    assert cosine[0] > 0 and cosine[1] == 0
    torch.testing.assert_close(sts(U, V), 5 * cosine.clamp(min=0))
    assert sts(U, encoding((-v).tolist())).eq(0).all()


@pytest.mark.parametrize(("task", "outputs"), [("quora", 1), ("sts", 1)])
def test_interaction_by_hand(task: str, outputs: int) -> None:
    head = build_head("interaction", H, TASKS[task], generator())
    w1, b1, w2, b2 = weights(head)
    assert [tuple(w.shape) for w in (w1, w2)] == [(H, 4 * H), (outputs, H)]
    u, v = U.sentence, V.sentence
    joined = torch.cat([u, v, (u - v).abs(), u * v], 1)
    torch.testing.assert_close(head(U, V), ((joined @ w1.T + b1).clamp(min=0) @ w2.T + b2)[:, 0])


def token_states(lengths: list[int], extra: int = 0, filler: float = 0.0) -> Encoding:
    """Sentences of those lengths, each with the states that its number draws, padded with the filler."""
    tokens = torch.full((len(lengths), max(lengths) + extra, H), filler)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randn(length, H, generator=generator(row))
    mask = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
    return Encoding(tokens[:, 0], tokens, mask)


def lstm_by_hand(states: Tensor, head: torch.nn.Module, direction: str) -> Tensor:
    """The last hidden state over (T, H) states, by the LSTM's equations; gates input, forget, cell, output."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    w_in, w_hidden, b_in, b_hidden = (getattr(head.lstm, name + direction).detach() for name in names)
    hidden = cell = torch.zeros(H // 2)
    for x in states:
        i, f, g, o = (w_in @ x + b_in + w_hidden @ hidden + b_hidden).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
    return hidden


def test_bilstm_by_hand() -> None:
    """bertaar.txt, 5.2: both directions over the tokens, 50 units, ReLU, classes."""
    head = build_head("bilstm", H, TASKS["sst"], generator())
    sentences = token_states([3, 5, 1])
    w1, b1, w2, b2 = weights(head.layers)
    assert [tuple(w.shape) for w in (w1, w2)] == [(50, H), (5, 50)]
    for row, output in enumerate(head(sentences)):
        states = sentences.tokens[row][sentences.mask[row]]
        final = torch.cat([lstm_by_hand(states, head, ""), lstm_by_hand(states.flip(0), head, "_reverse")])
        torch.testing.assert_close(output, (w1 @ final + b1).clamp(min=0) @ w2.T + b2)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 7), st.floats(-9, 9))
def test_padding_does_not_change_a_bilstm(lengths: list[int], extra: int, filler: float) -> None:
    head = build_head("bilstm", H, TASKS["sst"], generator())
    torch.testing.assert_close(head(token_states(lengths, extra, filler)), head(token_states(lengths)))


def test_a_bilstm_survives_a_sentence_without_tokens() -> None:
    head = build_head("bilstm", H, TASKS["cfimdb"], generator())
    outputs = head(token_states([0, 2, 0]))
    assert outputs.shape == (3, 2) and outputs.isfinite().all()
    torch.testing.assert_close(outputs[1:2], head(token_states([0, 2]))[1:])


def test_a_bilstm_runs_on_other_weights_in_a_functional_call() -> None:
    """SMART's averaged weights: an LSTM keeps a second, flat list of its weights, which has to follow."""
    head = build_head("bilstm", H, TASKS["sst"], generator(1))
    other = build_head("bilstm", H, TASKS["sst"], generator(2))
    sentences = token_states([3, 2])
    before = head(sentences)
    outputs = torch.func.functional_call(head, dict(other.named_parameters()), (sentences,))
    assert torch.equal(outputs, other(sentences)) and not torch.equal(outputs, before)
    assert torch.equal(head(sentences), before)


@pytest.mark.parametrize(("name", "task"), SERVED, ids=lambda value: getattr(value, "name", value))
def test_first_weights_come_from_the_generator_alone(name: str, task) -> None:
    torch.manual_seed(1)
    first = build_head(name, H, task, generator(5)).state_dict()
    torch.manual_seed(2)
    again = build_head(name, H, task, generator(5)).state_dict()
    other = build_head(name, H, task, generator(6)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_first_weights_are_uniform_within_the_bound() -> None:
    weight, bias = weights(build_head("linear", 400, TASKS["sst"], generator()))
    assert weight.abs().max() <= 400**-0.5 and bias.abs().max() <= 400**-0.5
    assert weight.std().item() == pytest.approx(400**-0.5 / 3**0.5, rel=0.05)
    for weight in weights(build_head("bilstm", 200, TASKS["sst"], generator()).lstm):
        assert weight.abs().max() <= 100**-0.5
        assert weight.std().item() == pytest.approx(100**-0.5 / 3**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("head", "task"),
    [("cosine", "sst"), ("cosine", "quora"), ("bilstn", "sst"), ("bilstm", "sts"), ("interaction", "sst")],
)
def test_a_head_that_cannot_serve_is_refused_with_those_that_can(head: str, task: str) -> None:
    with pytest.raises(UserError, match=rf"here: head '{head}' .*heads that serve '{task}': linear, mlp") as caught:
        build_head(head, H, TASKS[task], generator(), "here")
    assert "\n" not in str(caught.value)


def test_losses_follow_the_head_unless_overridden() -> None:
    assert loss_for("cosine", TASKS["sts"], None, "here") == "cosine_mse"
    assert loss_for("cosine", TASKS["sts"], "mse", "here") == "mse"
    assert loss_for("mlp", TASKS["sts"], None, "here") == "mse"
    assert loss_for("linear", TASKS["quora"], None, "here") == "bce"
    with pytest.raises(UserError, match="here: loss 'bce' does not fit head 'mlp' on task 'sst'; valid: cross_entropy"):
        loss_for("mlp", TASKS["sst"], "bce", "here")


def test_every_head_names_known_losses() -> None:
    assert all(loss in LOSSES for head in HEADS.values() for losses in head.losses.values() for loss in losses)


def test_predictions_by_kind() -> None:
    def predict(outputs: Tensor, kind: KindName) -> Tensor:
        return KINDS[kind].prediction(outputs, LabelSpec(kind, "x", 0, 2))

    logits = torch.tensor([[0.1, 0.9, 0.0], [3.0, -1.0, 2.0]])
    assert predict(logits, "classes").tolist() == [1.0, 0.0]
    assert predict(torch.tensor([-0.1, 0.0, 0.2]), "binary").tolist() == [0.0, 0.0, 1.0]
    scores = predict(torch.tensor([2.5, 4.0], dtype=torch.bfloat16), "score")
    assert scores.tolist() == [2.5, 4.0] and scores.dtype == torch.float32


def test_a_joined_pair_is_two_texts_each_with_the_mean_of_its_states() -> None:
    ids = torch.tensor([[1, 5, 2, 6, 7, 2, 0], [1, 2, 8, 2, 0, 0, 0]])  # 1: [CLS], 2: [SEP], 0: padding
    mask, tokens = ids != 0, torch.arange(14.0).reshape(2, 7, 1)
    found = text_means(Encoding(torch.zeros(2, 1), tokens, mask), ids)
    assert found.tolist() == [[1.0, 4.0], [7.5, 9.5]]
