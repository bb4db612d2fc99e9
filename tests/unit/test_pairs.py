"""Pairs that are joined as two segments: transformers' numbers, any pair task, and what was joined before stays so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors

from multitask.bundle.bundle import Bundle, bundle_from, facts_of, read_bundle, save_bundle
from multitask.data.batches import Batch, collate, padded, segments_of
from multitask.data.tokens import cache_tokens, check_segments, load_tokens, second_at
from multitask.errors import UserError
from multitask.experiment.stage_job import digest, stage_content
from multitask.inference.predict import Predictor
from multitask.measure.evaluate import EvalSet, predictions
from multitask.model import encoding
from multitask.model.bert import MiniBert
from multitask.model.config import PRESETS
from multitask.model.encoding import encode
from multitask.model.multitask import text_means
from multitask.recipe.checks import build_recipe
from multitask.recipe.stages import Recipe
from multitask.recruit.suitability import TaskModel
from multitask.storage.storage import Storage
from multitask.tasks.own import Definition, definitions, known, paired, spec_of
from multitask.tasks.table import TASKS, TaskSpec
from tests.exports import TEXTS, bundle_with
from tests.helpers import tiny, tree_driver
from tests.tokenizer_folders import roberta_json

PAIRS = list(zip(TEXTS, [*TEXTS[1:], TEXTS[0]], strict=True))
OWN = {"columns": ["first", "second"], "label": {"kind": "score", "low": 0, "high": 1, "similar": 1}}


def own(joined: bool = False) -> TaskSpec:
    label = {key: value for key, value in OWN["label"].items() if key != "similar" or not joined}
    return spec_of("mine", Definition.model_validate({**OWN, "label": label, "joined": joined}), "here")


def recipe(**tasks: Any) -> Recipe:
    stages = [{"name": "a", "tasks": list(tasks), "train": "full-model", "lr": 1e-3}]
    return build_recipe({"name": "n", "encoder": "tiny", "data": "sample", "tasks": tasks, "stages": stages}, "n")


def content(made: Recipe, task: str = "quora") -> dict[str, Any]:
    stage = made.stages[0]
    return stage_content(made, stage, made.heads(stage), {task: {"train": "a", "dev": "b"}}, "parent", 1)


def batch_of(bundle: Bundle, task: str, pairs: list[tuple[str, str]]) -> Batch:
    tokenizer = bundle.tokenizer
    tokenizer.enable_truncation(bundle.max_length)
    encodings = tokenizer.encode_batch(pairs)
    ids, mask = padded([encoding.ids for encoding in encodings])
    blank = torch.zeros(len(pairs))
    return Batch(
        task, ids, mask, blank, blank, blank.long(), segments=segments_of(list(map(second_at, encodings)), mask)
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "explicit"])
def test_segments_give_transformers_states(packed: bool, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    config = replace(PRESETS["tiny"], vocab_size=tiny().config.vocab_size)
    ours = MiniBert(config, attention).init_weights(5).eval()
    theirs = transformers.BertModel(transformers.BertConfig(**config.to_dict())).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    batch = batch_of(tiny(), "quora", PAIRS)
    monkeypatch.setattr(encoding, "CPU_TOKENS", 1 if packed else 10**6)
    with torch.no_grad():
        found = encode(ours, "pooler", batch.input_ids, batch.mask, None, batch.segments)
        plain = encode(ours, "pooler", batch.input_ids, batch.mask)
        wanted = theirs(batch.input_ids, batch.mask.long(), token_type_ids=batch.segments)
    assert (found.tokens - wanted.last_hidden_state)[batch.mask].abs().max() < 1e-5
    assert (found.sentence - wanted.pooler_output).abs().max() < 1e-5
    assert (found.sentence - plain.sentence).abs().max() > 1e-3, "segments make a difference"


def test_segments_are_those_of_the_tokenizers_template(tmp_path: Path) -> None:
    """From a file, through the cache, to a batch: what transformers calls token_type_ids, cut pairs included."""
    file = tmp_path / "quora.tsv"
    rows = [(one or "x", two or "y") for one, two in PAIRS]
    file.write_text("sentence1\tsentence2\n" + "".join(f"{one}\t{two}\n" for one, two in rows))
    spec, storage, tokenizer = paired(TASKS["quora"], "joined", "here"), Storage(str(tmp_path)), tiny().tokenizer
    table = load_tokens(storage, cache_tokens(storage, str(file), spec, tokenizer, labelled=False, max_length=24))
    batch = collate("quora", table, np.array([4, 0, 2]), np.ones(3, np.float32))
    tokenizer.enable_truncation(24)
    wanted = [tokenizer.encode(*rows[row]) for row in (4, 0, 2)]
    assert max(map(len, wanted)) == 24 and table.sentences == 1 and batch.segments is not None
    for ids, types, found in zip(batch.input_ids.tolist(), batch.segments.tolist(), wanted, strict=True):
        assert ids[: len(found)] == found.ids
        assert types == [*found.type_ids, *[0] * (len(types) - len(found))]


def test_caches_of_each_way_lie_beside_each_other_and_those_of_before_stay(tmp_path: Path) -> None:
    file = tmp_path / "quora.tsv"
    file.write_text("sentence1\tsentence2\na fine film\tdull\n")
    specs = [TASKS["quora"], paired(TASKS["quora"], "joined", "here"), replace(TASKS["quora"], joined=True)]
    storage = Storage(str(tmp_path))
    paths = [cache_tokens(storage, str(file), spec, tiny().tokenizer, labelled=False, max_length=24) for spec in specs]
    assert len({*paths}) == 3
    assert [load_tokens(storage, path).seconds is None for path in paths] == [True, False, True]
    assert "segments" not in TASKS["suitability"].facts(), "named as before"


def test_an_encoder_of_one_segment_is_given_all_as_that_one() -> None:
    model = MiniBert(replace(PRESETS["tiny"], vocab_size=tiny().config.vocab_size, type_vocab_size=1)).init_weights(5)
    batch = batch_of(tiny(), "quora", PAIRS)
    with torch.no_grad():
        given, plain = (model.eval()(batch.input_ids, batch.mask, segments=some) for some in (batch.segments, None))
    assert torch.equal(given, plain)


def test_a_template_of_one_segment_is_taken_at_its_word_and_a_strange_one_is_refused() -> None:
    roberta = Tokenizer.from_str(roberta_json())
    encoding = roberta.encode("a", "a")
    assert second_at(encoding) == len(encoding)
    check_segments(roberta, "here")
    tokenizer = tiny().tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(pair="$A:1 $B:0", single="$A")
    with pytest.raises(UserError, match=r"here: its template for two texts has the types \[1, 0\]; valid: 0s, then 1s"):
        check_segments(tokenizer, "here")


@pytest.mark.parametrize("spec", [TASKS["quora"], TASKS["sts"], TASKS["suitability"], own(), own(joined=True)])
@pytest.mark.parametrize("pairing", ["joined", "separate"])
def test_any_pair_task_may_be_either_and_comes_back_from_its_definition(spec: TaskSpec, pairing: Any) -> None:
    made = paired(spec, pairing, "here")
    assert (made.joined, made.segments) == ((True, True) if pairing == "joined" else (False, False))
    found = json.loads(json.dumps(definitions({made.name: made})))
    assert known(found, "here").get(made.name) == made
    assert paired(paired(made, "joined", "here"), "separate", "here").sides == 2
    if pairing == "joined":
        assert (made.head, made.sides, made.label.similar) == ("linear", 1, None)


def test_what_a_definition_says_of_pairs_is_checked() -> None:
    for found, said in {
        "sideways": "there: quora.pair: 'sideways'; valid: separate, joined",
        None: "there: quora.pair: None; valid: separate, joined",
    }.items():
        with pytest.raises(UserError, match=said):
            known({"quora": {"pair": found}}, "there")
    with pytest.raises(UserError, match="'quora' is taken"):
        known({"quora": {**OWN, "pair": "joined"}}, "there")
    with pytest.raises(UserError, match=r"there: sst\.pair: joined: of pairs; task 'sst' has one text, sentence"):
        known({"sst": {"pair": "joined"}}, "there")


def test_only_another_way_of_reading_pairs_makes_another_stage() -> None:
    plain = digest(content(recipe(quora={})))
    assert digest(content(recipe(quora={"pair": "separate"}))) == plain
    assert content(recipe(quora={"pair": "joined"}))["tasks"] == {"quora": ["linear", None, {}, {"pair": "joined"}]}
    before = content(recipe(mine={"define": {**OWN, "label": {"kind": "binary"}, "joined": True}}), "mine")
    assert "pair" not in before["tasks"]["mine"][3] and before["tasks"]["mine"][3]["joined"] is True


REFUSED = {
    "of one text": ({"sst": {"pair": "joined"}}, "n: tasks.sst.pair: joined: of pairs; task 'sst' has one text"),
    "a cosine": ({"sts": {"pair": "joined", "head": "cosine"}}, "task 'sts', whose pairs are joined; .*mlp"),
    "two vectors": ({"quora": {"pair": "joined", "head": "interaction"}}, "serve 'quora': linear, mlp, bilstm"),
    "a word": ({"quora": {"pair": "join"}}, "tasks.quora.pair: 'join': Input should be 'separate' or 'joined'"),
    "both": (
        {"mine": {"define": {**OWN, "label": {"kind": "binary"}, "joined": True}, "pair": "separate"}},
        "n: tasks.mine.pair: separate, and define.joined: true; leave one of them out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tasks", REFUSED)
def test_what_makes_no_pair_is_refused(tasks: str) -> None:
    with pytest.raises(UserError, match=REFUSED[tasks][1]):
        recipe(**REFUSED[tasks][0])


PAIRWISE = {"objective": "contrastive", "contrastive": {"positives": "pairs"}}


@pytest.mark.parametrize("objective", [{"objective": "ranking"}, {"objective": "completion"}, PAIRWISE])
def test_what_learns_from_separate_encodings_is_refused(objective: dict[str, Any]) -> None:
    stage = {"name": "a", "tasks": ["quora"], "train": "full-model", "lr": 1e-3, **objective}
    tree = {"name": "n", "encoder": "tiny", "data": "sample", "tasks": {"quora": {"pair": "joined"}}, "stages": [stage]}
    with pytest.raises(UserError, match="'quora', whose pairs are joined, has no similar pairs for"):
        build_recipe(tree, "n")


def test_a_head_of_separate_pairs_is_no_start_for_joined_ones(tmp_path: Path) -> None:
    save_bundle(Storage(str(tmp_path)), "bundle", bundle_with({"quora": "linear"}))
    stages, start = [{"name": "a", "tasks": ["quora"]}], str(tmp_path / "bundle")
    tasks: dict[str, Any] = {"quora": {"pair": "joined"}}
    said = (
        r"tasks.quora.pair: '.*' brings a head linear that was trained on pairs which are separate; here they are "
        "joined; another head begins anew: mlp, bilstm"
    )
    for top in ({"encoder": start}, {"stages": [{**stages[0], "from": start}]}):
        with pytest.raises(UserError, match=said):
            tree_driver(tmp_path / "runs", **{"stages": stages, "tasks": tasks, **top})
    tasks["quora"]["head"] = "mlp"
    driver = tree_driver(tmp_path / "runs", stages, tasks=tasks, encoder=start)
    assert driver.plan.heads(driver.recipe.stages[0]) == {"quora": "mlp"}


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@pytest.mark.parametrize("head", ["linear", "bilstm"])
def test_they_are_predicted_as_by_evaluate_and_pooled_as_the_bundle_says(
    tmp_path: Path, pooling: str, head: str
) -> None:
    bundle = bundle_with({"skills": head}, pooling)
    rows = [(f"a good film about {at}", "the worst of all " * (at % 9 + 1)) for at in range(40)]
    file = tmp_path / "pairs.tsv"
    file.write_text("sentence1\tsentence2\n" + "".join(f"{one}\t{two}\n" for one, two in rows))
    spec, storage = bundle.specs["skills"], Storage(str(tmp_path))
    path = cache_tokens(storage, str(file), spec, bundle.tokenizer, labelled=False, max_length=bundle.max_length)
    data = EvalSet.of("skills", load_tokens(storage, path), "cpu")
    wanted = predictions(bundle.model(), data, device=torch.device("cpu")).labels.numpy()
    first, second = map(list, zip(*rows, strict=True))
    np.testing.assert_allclose(Predictor(bundle).predict("skills", first, second), wanted, atol=1e-5)
    if head == "linear":
        model, batch = bundle.model().eval(), batch_of(bundle, "skills", rows[:3])
        with torch.no_grad():
            pooled = encode(model.encoder, pooling, batch.input_ids, batch.mask, None, batch.segments).sentence
            ours = model.heads["skills"].layers(pooled).squeeze(1)
        np.testing.assert_allclose(ours.numpy(), wanted[:3], atol=1e-5)


def test_a_joined_bundle_of_before_keeps_its_meaning(tmp_path: Path) -> None:
    """Without the flag all is the first segment, and the head gets each text's mean; with it, it says so itself."""
    bundle = bundle_with({"suitability": "interaction"}, "pooler")
    facts = facts_of(bundle)
    assert "pair" not in json.dumps(facts)
    found = bundle_from(facts, bundle.tensors, bundle.tokenizer_json, "here")
    batch, model = batch_of(bundle, "suitability", PAIRS), found.model().eval()
    batch.segments = None
    with torch.no_grad():
        states = encode(model.encoder, "pooler", batch.input_ids, batch.mask)
        wanted = model.heads["suitability"].dense(model.heads["suitability"].join(
            *text_means(states, batch.input_ids).chunk(2, dim=1)))  # fmt: skip
        assert torch.equal(model(batch), wanted)
    first, second = map(list, zip(*PAIRS, strict=True))
    np.testing.assert_allclose(Predictor(found).outputs("suitability", first, second), wanted, atol=1e-5)
    save_bundle(Storage(str(tmp_path)), "new", bundle_with({"skills": "linear"}))
    assert json.loads((tmp_path / "new" / "model.json").read_text())["specs"] == {"skills": {"pair": "joined"}}
    assert read_bundle(Storage(str(tmp_path)), "new").specs["skills"].segments


@pytest.mark.parametrize("pairing", ["joined", "separate"])
def test_the_recruiter_answers_as_the_bundle_was_trained(pairing: Any) -> None:
    spec = paired(TASKS["suitability"], pairing, "here")
    model = replace(tiny(), specs=TASKS | {"suitability": spec}).model({"suitability": spec.head}, seed=7)
    bundle = replace(tiny(), specs=model.specs, heads={"suitability": spec.head}, tensors=model.state_dict())
    first, second = map(list, zip(*PAIRS, strict=True))
    wanted = Predictor(bundle).outputs("suitability", first, second)
    assert torch.equal(TaskModel(bundle, "suitability").outputs(PAIRS), wanted.double())
