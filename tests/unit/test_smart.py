"""SMART: divergences by the book, noise from seeds alone, an ascent that ascends, an average that averages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.func import functional_call

from multitask.objectives.smart import WeightAverage, adversarial_noise, divergence, draw_noise
from multitask.tasks.labels import KINDS, LabelSpec

CLASSES = LabelSpec("classes", "x", 0, 4)
BINARY = LabelSpec("binary", "x", 0, 1)
SCORE = LabelSpec("score", "x", 1, 5)
PROBABILITY = LabelSpec("probability", "x", 0, 1)
SEVERAL = LabelSpec("multilabel", "x", 0, 4)
LABELS = [CLASSES, BINARY, SCORE, PROBABILITY, SEVERAL]
LOGITS = st.lists(st.floats(-20, 20), min_size=5, max_size=5)


def outputs_for(label: LabelSpec, seed: int, size: int = 6) -> Tensor:
    return 2 * torch.randn((size, *label.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(LOGITS, LOGITS)
def test_divergence_of_classes_is_the_symmetric_kl(first: list[float], second: list[float]) -> None:
    a, b = torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64)
    p, q = Categorical(logits=a), Categorical(logits=b)
    torch.testing.assert_close(divergence(a, b, CLASSES), kl_divergence(p, q) + kl_divergence(q, p))


@given(LOGITS, LOGITS)
def test_divergence_of_binary_is_the_symmetric_kl(first: list[float], second: list[float]) -> None:
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    p, q = Bernoulli(logits=a), Bernoulli(logits=b)
    torch.testing.assert_close(divergence(a, b, BINARY), kl_divergence(p, q) + kl_divergence(q, p))


@given(LOGITS, LOGITS)
def test_divergence_of_several_is_the_mean_of_their_symmetric_kls(first: list[float], second: list[float]) -> None:
    a, b = torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64)
    torch.testing.assert_close(divergence(a, b, SEVERAL), divergence(a[0], b[0], BINARY).mean()[None])


@given(LOGITS, LOGITS)
def test_divergence_of_scores_is_the_square_on_the_labels_range(first: list[float], second: list[float]) -> None:
    a, b = torch.tensor(first), torch.tensor(second)
    torch.testing.assert_close(divergence(a, b, SCORE), (a - b) ** 2 / 16)


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.kind)
@given(seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_divergence_is_a_symmetric_distance_in_at_least_float32(
    label: LabelSpec, seeds: tuple[int, int], dtype: torch.dtype
) -> None:
    a, b = (outputs_for(label, seed).to(dtype) for seed in seeds)
    far = divergence(a, b, label)
    assert far.shape == (6,) and far.dtype == torch.float32
    assert far.ge(0).all() and torch.equal(far, divergence(b, a, label))
    assert divergence(a, a, label).eq(0).all()


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.kind)
def test_divergence_stays_finite_far_out_and_has_gradients_to_both(label: LabelSpec) -> None:
    a = (1e4 * outputs_for(label, 1)).requires_grad_()
    b = (1e4 * outputs_for(label, 2)).requires_grad_()
    far = divergence(a, b, label).sum()
    gradients = torch.autograd.grad(far, (a, b))
    assert far.isfinite() and all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


def test_every_label_kind_is_tried() -> None:
    assert set(KINDS) == {label.kind for label in LABELS}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**63 - 1)), min_size=1, max_size=5), st.integers(0, 4))
def test_a_sentences_noise_depends_on_its_seed_alone(sentences: list[tuple[int, int]], extra: int) -> None:
    lengths, seeds = torch.tensor([n for n, _ in sentences]), [seed for _, seed in sentences]
    width = int(lengths.max()) + extra
    noise = draw_noise(lengths, width, 3, 0.5, seeds)
    assert noise.shape == (len(sentences), width, 3) and noise.dtype == torch.float32
    for row, (length, seed) in enumerate(sentences):
        alone = draw_noise(torch.tensor([length]), length, 3, 0.5, [seed])
        assert torch.equal(noise[row, :length], alone[0]) and noise[row, length:].eq(0).all()
        assert noise[row, :length].ne(0).all()


def test_noise_has_its_scale_and_differs_by_seed() -> None:
    noise = draw_noise(torch.tensor([100, 100]), 100, 50, 1e-3, [1, 2])
    assert noise.std().item() == pytest.approx(1e-3, rel=0.03) and abs(noise.mean().item()) < 5e-5
    assert not torch.equal(noise[0], noise[1])
    with pytest.raises(ValueError):
        draw_noise(torch.tensor([3, 3]), 3, 2, 1.0, [1])


class Toy(nn.Module):
    """Token states of S sentences (S, T, H) -> a head's outputs: nonlinear, mean over tokens."""

    def __init__(self, label: LabelSpec, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner, self.outer = nn.Linear(8, 16).double(), nn.Linear(16, label.outputs).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.4, generator=generator)
        self.kind = label.kind
        self.tokens = torch.randn(6, 4, 8, generator=generator, dtype=torch.float64)
        self.mask = torch.arange(4) < torch.tensor([4, 3, 1, 2, 4, 4])[:, None]

    def forward(self, noise: Tensor) -> Tensor:
        states = self.inner(self.tokens + noise).tanh()
        outputs = self.outer((states * self.mask[..., None]).sum(1) / self.mask.sum(1, keepdim=True))
        return outputs if self.kind == "classes" else outputs[:, 0]


def searched(toy: Toy, label: LabelSpec, seed: int = 0, **changes: float) -> tuple[Tensor, Tensor]:
    """The outputs without noise, and the worst noise found from that seed."""
    reference = toy(torch.zeros(6, 4, 8))
    start = draw_noise(toy.mask.sum(1), 4, 8, 1e-3, [seed + row for row in range(6)]).double()
    how = {"step": 1.0, "radius": 0.1, "iterations": 3, **changes}
    return reference, adversarial_noise(toy, reference, start, label, mask=toy.mask, **how)


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.kind)
@settings(max_examples=25)
@given(seed=st.integers(0, 1000))
def test_the_search_beats_random_noise_of_the_same_radius(label: LabelSpec, seed: int) -> None:
    toy = Toy(label, seed)
    reference, worst = searched(toy, label, seed)
    random = 0.1 * torch.randn(20, 6, 4, 8, generator=torch.Generator().manual_seed(seed)).sign()
    found = divergence(toy(worst), reference, label).sum()
    rivals = torch.stack([divergence(toy(noise), reference, label).sum() for noise in random])
    assert found > 1.3 * rivals.max()  # corners of the same box, where random noise can do most


@given(
    st.sampled_from(LABELS),
    st.floats(1e-4, 2.0),
    st.floats(1e-4, 1.0),
    st.integers(1, 4),
)
def test_noise_stays_within_the_radius_and_off_the_padding(
    label: LabelSpec, step: float, radius: float, iterations: int
) -> None:
    toy = Toy(label, 1)
    _, worst = searched(toy, label, step=step, radius=radius, iterations=iterations)
    assert worst.abs().max().item() <= radius and worst[~toy.mask].eq(0).all()
    assert worst.isfinite().all() and worst.abs().amax(dim=(1, 2)).gt(0).all()


def test_one_iteration_by_hand() -> None:
    """start + step * g / max |g|, a sentence at a time, cut off at the radius."""
    toy = Toy(CLASSES, 3)
    reference = toy(torch.zeros(6, 4, 8)).detach()
    start = draw_noise(toy.mask.sum(1), 4, 8, 1e-3, list(range(6))).double().requires_grad_()
    p, q = Categorical(logits=toy(start)), Categorical(logits=reference)
    (gradient,) = torch.autograd.grad((kl_divergence(p, q) + kl_divergence(q, p)).sum(), start)
    scaled = torch.stack([g / g.abs().max() for g in gradient])
    _, worst = searched(toy, CLASSES, step=0.05, radius=0.04, iterations=1)
    torch.testing.assert_close(worst, (start + 0.05 * scaled).detach().clamp(-0.04, 0.04))


def test_the_search_leaves_no_trace_on_the_model() -> None:
    toy = Toy(BINARY, 4)
    _, worst = searched(toy, BINARY)
    assert all(parameter.grad is None for parameter in toy.parameters())
    assert not worst.requires_grad and worst.grad_fn is None
    assert torch.equal(worst, searched(toy, BINARY)[1])


def test_each_sentence_is_searched_on_its_own() -> None:
    """Neither the batch a sentence is in nor the size of the others' gradients changes what is found for it."""
    toy, label = Toy(CLASSES, 5), CLASSES
    _, together = searched(toy, label)
    toy.tokens, mask = toy.tokens[1:3], toy.mask[1:3]
    toy.mask = mask
    start = draw_noise(mask.sum(1), 4, 8, 1e-3, [1, 2]).double()
    reference = toy(torch.zeros(2, 4, 8))
    few = adversarial_noise(toy, reference, start, label, step=1.0, radius=0.1, iterations=3, mask=mask)
    torch.testing.assert_close(few, together[1:3])


@pytest.mark.parametrize("flat", [lambda noise: 0 * noise.sum((1, 2)), lambda noise: noise.sum((1, 2)) ** 0])
def test_where_nothing_moves_the_outputs_the_noise_stays(flat: Callable[[Tensor], Tensor]) -> None:
    start = draw_noise(torch.tensor([2, 1]), 2, 3, 1e-3, [1, 2])
    mask = torch.tensor([[True, True], [True, False]])
    worst = adversarial_noise(flat, flat(start), start, SCORE, step=0.1, radius=1.0, iterations=2, mask=mask)
    assert torch.equal(worst, start)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=6), st.floats(0, 1))
def test_the_average_by_its_formula(values: list[float], momentum: float) -> None:
    average, expected = WeightAverage({"w": torch.tensor([values[0]])}, momentum), values[0]
    for value in values[1:]:
        average.update({"w": torch.tensor([value])})
        expected = momentum * expected + (1 - momentum) * value
    torch.testing.assert_close(average.state["w"], torch.tensor([expected]), rtol=1e-5, atol=1e-5)


def test_the_average_is_a_copy_and_runs_the_model_on_its_own_weights() -> None:
    toy, noise = Toy(SCORE, 6), torch.zeros(6, 4, 8)
    average = WeightAverage(dict(toy.named_parameters()), momentum=0.9)
    before = toy(noise).detach()
    with torch.no_grad():
        for parameter in toy.parameters():
            parameter.add_(1.0)
    assert torch.equal(functional_call(toy, average.state, (noise,)), before)
    assert not any(tensor.requires_grad for tensor in average.state.values())

    average.update(dict(toy.named_parameters()))
    old = Toy(SCORE, 6).state_dict()
    for name, tensor in average.state.items():
        torch.testing.assert_close(tensor, old[name] + 0.1)
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_a_loaded_average_goes_on_as_the_saved_one() -> None:
    weights = [{"a": torch.randn(3, 2), "b": torch.randn(2, dtype=torch.float64)} for _ in range(3)]
    saved = WeightAverage(weights[0], 0.99)
    saved.update(weights[1])
    resumed = WeightAverage(weights[2], 0.99)
    resumed.load({name: tensor.clone() for name, tensor in saved.state.items()})
    for average in (saved, resumed):
        average.update(weights[2])
    assert all(torch.equal(saved.state[name], resumed.state[name]) for name in saved.state)
    assert resumed.state["b"].dtype == torch.float64


@pytest.mark.parametrize(
    "state", [{}, {"b": torch.ones(2)}, {"a": torch.ones(1)}, {"a": torch.ones(2), "b": torch.ones(2)}]
)
def test_another_models_average_is_refused_by_name(state: dict[str, Tensor]) -> None:
    average = WeightAverage({"a": torch.zeros(2)}, 0.5)
    with pytest.raises(ValueError, match=r"averaged weights differ.*'[ab]'"):
        average.load(state)
    assert average.state["a"].eq(0).all()


@given(st.integers(0, 30))
def test_divergence_grows_with_the_distance(seed: int) -> None:
    """Along a line away from the reference, so that a larger divergence means a larger change."""
    for label in LABELS:
        a, b = outputs_for(label, seed), outputs_for(label, seed + 1)
        far = torch.stack([divergence(a + t * (b - a), a, label) for t in (0.25, 0.5, 1.0)])
        assert far.diff(dim=0).gt(0).all()
