"""Role completion: the prompt, what is hidden, a planted title restored, the beam, and the metrics by hand."""

from __future__ import annotations

import io
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from multitask.bundle.bundle import Bundle, bundle_of, longest, save_bundle
from multitask.data.batches import Batch
from multitask.data.masking import NO_TARGET
from multitask.data.tokens import TokenTable
from multitask.errors import UserError
from multitask.inference.embed import TextEncoder
from multitask.measure.metrics import COMPLETION
from multitask.objectives.base import Place
from multitask.objectives.completion import MOST, PROMPT, Prompt
from multitask.recipe.stages import Stage
from multitask.recruit import completion
from multitask.recruit.completion import Completer, Title, exact_match, measure_titles, token_f1
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS
from ray_jobs.recruit.completion import pairs_of, run_complete
from ray_jobs.screen import Screen
from tests.helpers import CLS, MASK, ORDINARY, SEP, UNK, VOCABULARY, objective_of, table_of, tiny

TOKENIZER = tiny().tokenizer
# A title that is one word's beginning, one that is another's, one of several pieces, and two that begin alike.
PLANTED = {
    "cook": "Prepares breakfast, lunch and dinner for the guests of a small hotel.",
    "driver": "Takes parcels to the customers by van, and keeps the van clean.",
    "night nurse": "Looks after patients from evening until morning.",
    "night guard": "Watches the doors of a factory while nobody works there.",
    "accountant / controller": "Keeps the books, writes the bills and files the taxes.",
}
STAGE = {"name": "titles", "objective": "completion", "tasks": ["jobs"], "train": "full-model", "lr": 1e-3}
PROMPTED = Prompt.of(TOKENIZER, 64)
tokens = st.lists(st.sampled_from([*ORDINARY, UNK]), max_size=20)


def ids_of(text: str, special: bool = True) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=special).ids)


def planted_table() -> TokenTable:
    """The planted pairs, and as many that do not belong together."""
    pairs = [*PLANTED.items(), *((title, "Something else entirely.") for title in PLANTED)]
    labels = [1.0] * len(PLANTED) + [0.0] * len(PLANTED)
    return table_of([ids_of(text) for pair in pairs for text in pair], labels)


def completion_objective(table: TokenTable | None = None, **stage: Any) -> Any:
    return objective_of({"jobs": table or planted_table()}, objective="completion", **stage)


def batch_of(
    objective: Any, rows: list[int], when: str = "epoch 0, step 0", weights: list[float] | None = None
) -> Batch:
    given = np.array(weights or [1.0] * len(rows), np.float32)
    batch: Batch = objective.batch("jobs", np.array(rows), given, when)
    return batch


@cache
def trained() -> Bundle:
    """A tiny encoder that saw the planted pairs, and no others, four hundred times."""
    objective = completion_objective()
    objective.model.float()
    rows = objective.setup.rows["jobs"]
    optimizer = torch.optim.AdamW([w for w in objective.model.parameters() if w.requires_grad], lr=3e-3)
    for step in range(400):
        total, count = objective.loss(batch_of(objective, rows.tolist(), f"step {step}"), Place())
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    return bundle_of(objective.model, tiny().tokenizer_json, {"max_length": 64})


@cache
def untrained() -> Completer:
    return Completer(bundle_of(tiny().model({}, mlm="untied"), tiny().tokenizer_json, {"max_length": 64}))


def test_an_encoder_with_room_for_more_tokens_completes() -> None:
    """Its logits are as many as it has embeddings; those of no token are no title's."""
    roomy = tiny()
    words = roomy.tensors["encoder.embeddings.word_embeddings.weight"]
    config = replace(roomy.config, vocab_size=len(words) + 8)
    more = torch.cat([words, 9 * torch.ones(8, words.shape[1])])
    roomy = replace(roomy, config=config, tensors={**roomy.tensors, "encoder.embeddings.word_embeddings.weight": more})
    made = bundle_of(roomy.model({}, mlm="tied"), roomy.tokenizer_json, {"max_length": 64})
    (titles,) = Completer(made).complete(["Cooks."], k=3)
    assert len(titles) == 3 and all(title.text for title in titles)


def test_the_prompt_by_hand() -> None:
    """[CLS] prompt, room for MOST tokens, [SEP] description [SEP]; special tokens of the table's texts are dropped."""
    shown, text = ids_of("night nurse", special=False), ids_of("Looks after patients.")
    masks = [MASK] * (MOST - len(shown))
    expected = [CLS, *ids_of(PROMPT, special=False), *shown, *masks, SEP, *text[1:]]
    assert PROMPTED.ids(shown, text) == expected
    assert PROMPTED.answer(ids_of("night nurse")) == [*shown, SEP]
    assert PROMPTED.answer([CLS, *range(100, 100 + MOST - 1), SEP]) == [*range(100, 100 + MOST - 1), SEP]
    assert PROMPTED.answer([CLS, *range(100, 100 + MOST), SEP]) == list(range(100, 100 + MOST))  # no room for an end
    assert PROMPTED.answer([CLS, UNK, SEP]) == [SEP]


@given(tokens, tokens, st.integers(0, MOST))
def test_what_is_hidden_is_what_is_asked_for(title: list[int], description: list[int], count: int) -> None:
    answer = PROMPTED.answer(title)
    shown = min(count, len(answer))
    ids, mask, targets = PROMPTED.hidden([answer, [SEP]], [description, ORDINARY[:99]], [shown, 0])
    asked = targets[0] != NO_TARGET
    assert targets[0][asked].tolist() == answer[shown:]
    assert (ids[0][asked] == MASK).all()
    assert torch.where(asked, targets[0], ids[0])[mask[0]].tolist() == PROMPTED.ids(answer, description)
    assert mask[1].sum() == PROMPTED.longest  # the description's end is cut, and [SEP] is kept
    assert ids[1, PROMPTED.longest - 1] == SEP


def test_a_prompt_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(UserError, match=r"max_length 16 has no room for a description; at least \d+"):
        Prompt.of(TOKENIZER, 16)


def test_a_prompt_has_the_room_that_training_gave_and_positions_allow() -> None:
    assert longest({"max_length": 64}, tiny().config) == 64
    assert longest({"max_length": 10**6}, tiny().config) == tiny().config.max_position_embeddings
    assert longest({}, tiny().config) == min(512, tiny().config.max_position_embeddings)


@pytest.mark.parametrize(("brought", "head"), [("untied", "untied"), ("tied", "tied"), (None, "tied")])
def test_completion_goes_on_with_the_head_that_mlm_made(brought: str | None, head: str) -> None:
    stage = Stage.model_validate({**STAGE, "mlm": {"head": "untied"}})  # which is a setting of mlm
    assert stage.token_head(brought) == head


def test_only_similar_pairs_are_examples() -> None:
    objective = completion_objective()
    table, rows = objective.examples(None, TASKS["jobs"], planted_table(), np.array([7, 1, 4, 9]))
    assert rows.tolist() == [1, 4] and len(table) == 2 * len(PLANTED)


def hidden_of(batch: Batch) -> list[int]:
    assert batch.targets is not None
    return (batch.targets != NO_TARGET).sum(dim=1).tolist()


def test_what_is_shown_follows_from_the_example_and_the_step_alone() -> None:
    objective = completion_objective()
    whole, alone = hidden_of(batch_of(objective, [0, 1, 2, 3, 4])), hidden_of(batch_of(objective, [3]))
    assert alone == whole[3:4]
    assert hidden_of(completion_objective(name="stage").batch(
        "jobs", np.arange(5), np.ones(5, np.float32), "epoch 0, step 0")) == whole  # fmt: skip
    drawn = {hidden_of(batch_of(objective, [4], f"epoch {epoch}"))[0] for epoch in range(60)}
    answer = PROMPTED.answer(ids_of("accountant / controller"))
    assert drawn == set(range(1, len(answer) + 1))  # some token is always asked for


def test_an_example_of_weight_0_asks_for_nothing() -> None:
    objective = completion_objective()
    batch = batch_of(objective, [2], weights=[0.0])
    total, count = objective.loss(batch, Place())
    assert hidden_of(batch) == [0] and (total.item(), count.item()) == (0.0, 0.0)


def test_the_loss_is_the_hidden_tokens_cross_entropy() -> None:
    objective = completion_objective()
    batch = batch_of(objective, [0, 2, 4])
    assert batch.targets is not None
    with torch.no_grad():
        total, count = objective.loss(batch, Place())
        states = objective.model.encode(batch).tokens
        logits = objective.model.mlm(states, objective.model.encoder.embeddings.word_embeddings.weight)
    expected = [
        -logits[row, at].log_softmax(0)[batch.targets[row, at]].item()
        for row, at in torch.nonzero(batch.targets != NO_TARGET).tolist()
    ]
    assert count == len(expected) == sum(hidden_of(batch))
    assert total.item() == pytest.approx(sum(expected), rel=1e-12)


def test_a_uniform_models_perplexity_is_the_vocabularys_size_over_whole_answers() -> None:
    objective = completion_objective()
    with torch.no_grad():
        objective.model.mlm.bias.zero_()
        objective.model.encoder.embeddings.word_embeddings.weight.zero_()
    found = objective.measure({"jobs": planted_table()}, Place(), nullcontext)
    assert found.keys() == {COMPLETION}
    assert found[COMPLETION].value == pytest.approx(VOCABULARY, rel=1e-9)
    _, count = objective._dev_loss("jobs", planted_table(), Place(), nullcontext).tolist()
    assert count == sum(len(PROMPTED.answer(ids_of(title))) for title in PLANTED)


@pytest.mark.slow
def test_planted_titles_are_restored() -> None:
    completer = Completer(trained())
    for title, description in PLANTED.items():
        titles = completer.complete([description], k=3)[0]
        assert titles[0].text == title
        assert titles[0].probability > 0.8 > 0.2 > titles[1].probability


def by_hand(completer: Completer, title: str, description: str) -> float:
    """A title's probability, from the model's distribution at each place in turn."""
    text, probability = ids_of(description, special=False), 1.0
    answer = completer.prompt.answer(ids_of(title, special=False))
    for at, token in enumerate(answer):
        ids = torch.tensor([completer.prompt.ids(answer[:at], text)])
        with torch.no_grad():
            state = completer.model.encoder(ids, torch.ones_like(ids))[0, len(completer.prompt.before) + at]
            logits = completer.model.mlm(state, completer.model.encoder.embeddings.word_embeddings.weight)
        probability *= float(logits.softmax(0)[token])
    return probability


@pytest.mark.slow
def test_a_probability_is_the_models_own() -> None:
    completer, description = Completer(trained()), PLANTED["night nurse"]
    for title in completer.complete([description], k=3)[0]:
        assert title.probability == pytest.approx(by_hand(completer, title.text, description), rel=1e-4)


def plain_beam(completer: Completer, text: list[int], k: int) -> list[float]:
    """The scores of the k best that ended, with nothing dropped early."""
    beam, ended = [completion.Partial((), 0.0)], []
    for _ in range(MOST):
        grown = completer._grown(beam, text, max(k, completion.BEAM))
        ended += [partial for partial in grown if completer._has_ended(partial)]
        beam = [partial for partial in grown if not completer._has_ended(partial)][: max(k, completion.BEAM)]
    return sorted((math.exp(partial.score) for partial in ended), reverse=True)[:k]


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 6])
def test_dropping_what_cannot_win_loses_nothing(k: int) -> None:
    for completer in (Completer(trained()), untrained()):
        for description in PLANTED.values():
            found = sum(title.probability for title in completer.complete([description], k)[0])
            assert found == pytest.approx(sum(plain_beam(completer, ids_of(description, False), k)), rel=1e-5)


@effort(max_examples=30)
@given(st.text(max_size=300), st.integers(1, 12))
def test_any_text_gets_titles_of_words_likeliest_first(text: str, k: int) -> None:
    titles = untrained().complete([text], k)[0]
    assert 1 <= len(titles) <= k
    assert len({title.text for title in titles}) == len(titles)
    assert all(any(map(str.isalnum, title.text)) and "[" not in title.text for title in titles)
    chances = [title.probability for title in titles]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1 + 1e-6


def test_a_bundle_without_the_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"bundle 'tiny': no masked-language head.*objective: completion"):
        Completer(tiny())


@pytest.mark.parametrize(
    ("guess", "wanted", "exact", "f1"),
    [
        ("senior web developer", "Web Developer", 0.0, 0.8),  # 2 common of 3 and 2
        ("accountant / controller", "Accountant/Controller", 1.0, 1.0),
        ("attache", "  Attaché\n", 1.0, 1.0),
        ("developer web", "Web developer", 0.0, 1.0),
        ("the the cook", "the cook", 0.0, 0.8),  # a word counts as often as both have it
        ("cook", "driver", 0.0, 0.0),
    ],
)
def test_exact_match_and_token_f1_by_hand(guess: str, wanted: str, exact: float, f1: float) -> None:
    assert exact_match(guess, wanted) == exact
    assert token_f1(guess, wanted) == pytest.approx(f1)


class Knowing:
    """Completes what it was told to; embeds a text as its first word's place."""

    def __init__(self, titles: dict[str, str]) -> None:
        self.titles = titles

    def complete(self, descriptions: list[str], k: int) -> list[list[Title]]:
        return [[Title(self.titles[text], 0.5)] for text in descriptions]

    def embed(self, texts: list[str]) -> np.ndarray[Any, Any]:
        places = ["bakes", "drives", "cures"]
        return np.eye(3, dtype=np.float32)[[places.index(text.split()[0]) for text in texts]]


def test_measured_beside_the_nearest_postings_title_and_the_commonest() -> None:
    train = [("Cook", "bakes a"), ("cook", "drives a"), ("Night Nurse", "cures a")]
    dev = [("Cook", "bakes b"), ("Nurse", "cures b")]
    knowing: Any = Knowing({"bakes b": "cook", "cures b": "day nurse"})
    rows = {(row.method, row.metric): row for row in measure_titles(knowing, knowing, train, dev)}
    values = {key: row.value for key, row in rows.items()}
    assert values == pytest.approx(
        {
            ("completion", "exact match"): 0.5,
            ("completion", "token F1"): (1 + 2 / 3) / 2,
            ("nearest posting", "exact match"): 0.5,
            ("nearest posting", "token F1"): (1 + 2 / 3) / 2,
            ("commonest title", "exact match"): 0.5,
            ("commonest title", "token F1"): 0.5,
        }
    )
    assert rows["completion", "exact match"].interval == (0.0, 1.0)
    assert {row.rows for row in rows.values()} == {2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("completing"))
    save_bundle(Storage(folder), "bundle", trained())
    return f"{folder}/bundle"


def test_a_description_is_a_text_a_file_or_standard_input(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, description = tmp_path / "job.txt", PLANTED["driver"]
    file.write_text(description)
    monkeypatch.setattr("sys.stdin", io.StringIO(description))
    for text in (description, str(file), "-"):
        run_complete(bundle, text, 2, Screen(as_json=True))
        titles = json.loads(capsys.readouterr().out)["titles"]
        assert len(titles) == 2 and titles[0]["text"] == "driver"
    run_complete(bundle, description, 2, Screen())
    assert "driver" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "why"), [("  \n", "no text; give"), ("nowhere.txt", "description nowhere.txt: no such file")]
)
def test_a_description_that_is_none_is_refused(bundle: str, text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        run_complete(bundle, text, 2, Screen())


def test_files_of_prepare_are_measured(tmp_path: Path) -> None:
    rows = [{"id": f"{at}", "sentence1": t, "sentence2": d, "match": 1} for at, (t, d) in enumerate(PLANTED.items())]
    rows.append({"id": "far", "sentence1": "cook", "sentence2": "Takes parcels.", "match": 0})
    (tmp_path / "jobs-train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = pairs_of(str(tmp_path), "train")
    assert pairs == list(PLANTED.items())
    found = {
        (row.method, row.metric): row
        for row in measure_titles(Completer(trained()), TextEncoder(trained()), pairs, pairs)
    }
    assert found["completion", "exact match"].value == found["nearest posting", "exact match"].value == 1.0
    assert found["commonest title", "exact match"].value == pytest.approx(1 / len(PLANTED))
    (tmp_path / "jobs-dev.jsonl").write_text(json.dumps(rows[-1]) + "\n")
    with pytest.raises(UserError, match=r"jobs-dev\.jsonl: no row whose match is 1 or more"):
        pairs_of(str(tmp_path), "dev")
