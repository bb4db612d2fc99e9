"""Teachers of a stage: what they say of which examples, kept by content, and which are refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import teaching
from lightning_modules.data import StageData
from multitask.bundle.bundle import Bundle, bundle_fingerprint, bundle_of, member_folder, read_bundle, save_bundle
from multitask.bundle.ensemble import Ensemble, read_ensemble, write_ensemble
from multitask.data.sample import sample_uri
from multitask.data.shards import read_examples
from multitask.data.tokens import load_tokens
from multitask.errors import UserError
from multitask.experiment.stage_job import StageJob
from multitask.experiment.teachers import said_of, taught, teacher_model
from multitask.inference.predict import Predictor, answerer
from multitask.measure.evaluate import EvalSet
from multitask.model.multitask import MultitaskModel
from multitask.recipe.stages import Stage
from multitask.storage.storage import Storage
from multitask.tasks.own import paired
from multitask.tasks.table import TASKS
from ray_jobs.driver.teachers import check_task
from tests.helpers import (
    difference,
    newest,
    run,
    small_driver,
    small_job,
    tiny,
    tree_driver,
)
from tests.unit.test_cross_encoder import LABELS, bundle_with, written

CPU = torch.device("cpu")


def joined_teacher(head: str = "linear", size: int = 32) -> Bundle:
    """Another encoder, which reads pairs joined and tells upper from lower case, with a head for quora."""
    config = replace(tiny().config, hidden_size=size, num_attention_heads=2, intermediate_size=size)
    specs = {**TASKS, "quora": paired(TASKS["quora"], "joined", "here")}
    model, generator = MultitaskModel(config, "pooler", {"quora": head}, specs=specs), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    tokenizer_json = tiny().tokenizer_json.replace('"lowercase":true', '"lowercase":false')
    assert tokenizer_json != tiny().tokenizer_json
    return bundle_of(model, tokenizer_json, {"max_length": 24, "trained": ["quora"]})


def saved(folder: Path, bundle: Bundle) -> str:
    save_bundle(Storage(str(folder / "teacher")), "", bundle)
    return str(folder / "teacher")


def together(folder: Path) -> str:
    """An ensemble of `joined_teacher` and a model with another encoder and head, which reads pairs apart; a third
    member has no part in quora."""
    place = Storage(str(folder / "together"))
    apart = MultitaskModel(tiny().config, "mean", {"quora": "interaction"}, seed=3)
    about = {"max_length": 24, "trained": ["quora"]}
    members = [joined_teacher(), bundle_of(apart, tiny().tokenizer_json, about), joined_teacher("mlp")]
    for number, member in enumerate(members):
        save_bundle(place, member_folder(number), member)
    known = [{"bundle": "it", "fingerprint": bundle_fingerprint(place.at(member_folder(at)))} for at in range(3)]
    write_ensemble(place, Ensemble(members, {"quora": (0.25, 0.75, 0.0)}, {"quora": TASKS["quora"]}), known)
    return place.uri


def more_pairs(folder: Path) -> str:
    rows = ["sentence1,sentence2", *(f"What is {word}?,Is {word} good?" for word in ("tea", "the sea", "a LION"))]
    (folder / "more.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "more.csv")


def test_a_joined_teacher_says_of_each_example_what_it_predicts_of_its_texts(tmp_path: Path) -> None:
    uri, more = saved(tmp_path, joined_teacher()), more_pairs(tmp_path)
    job = small_job(tmp_path / "runs", teachers={"quora": {"bundle": uri, "unlabelled": more}})
    stage, teacher = Stage.model_validate(job.stage), Stage.model_validate(job.stage).teachers["quora"]
    data, lesson = StageData(job, stage), StageJob.of(job.to_json()).data.teachers["quora"][0]
    rows, bundle = data.rows["quora"], read_bundle(data.storage, lesson.bundle)
    model = teacher_model(bundle, TASKS["quora"], teacher, CPU)
    theirs, ours = load_tokens(data.storage, lesson.tokens), data.tables["quora"]
    assert list(theirs.ids) == list(ours.ids) and (theirs.sentences, ours.sentences) == (1, 2)
    values = said_of(model, EvalSet.of("quora", theirs, "cpu", rows=rows), rows, teacher, CPU)
    found = taught(values, ours, rows, teacher)

    files = {f"{sample_uri()}/quora-train.csv": True, more: False}
    texts = [
        it.texts
        for uri, labelled in files.items()
        for it in read_examples(uri, TASKS["quora"], labelled=labelled).examples
    ]
    picked = rows[[3, 0, -1, 40]]
    wanted = Predictor(bundle).outputs(
        "quora", *(list(side) for side in zip(*(texts[row] for row in picked), strict=True))
    )
    assert (found.of(picked) - wanted).abs().max() < 1e-5 and wanted.std() > 0.01
    assert ours.labels[-3:].isnan().all() and len(rows) == 75 + 3
    assert ours.labelled == len(ours) - 3


def test_encodings_are_of_both_texts_of_a_pair_in_a_batchs_order(tmp_path: Path) -> None:
    job = small_job(tmp_path / "runs", teachers={"quora": {"bundle": "tiny", "embeddings": True}})
    stage = Stage.model_validate(job.stage)
    data, lesson, teacher = StageData(job, stage), job.data.teachers["quora"][0], stage.teachers["quora"]
    rows, bundle = data.rows["quora"][:20], read_bundle(data.storage, lesson.bundle)
    table, model = load_tokens(data.storage, lesson.tokens), teacher_model(bundle, TASKS["quora"], teacher, CPU)
    values = said_of(model, EvalSet.of("quora", table, "cpu", rows=rows), rows, teacher, CPU)
    found = taught(values, data.tables["quora"], rows, teacher).of(rows[[5, 2]])
    examples = read_examples(f"{sample_uri()}/quora-train.csv", TASKS["quora"], labelled=True).examples
    texts = [examples[row].texts[side] for side in (0, 1) for row in rows[[5, 2]]]
    assert (found - Predictor(bundle).sentences(texts)).abs().max() < 1e-5


def test_an_ensemble_teaches_what_it_answers_and_is_asked_member_by_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    original = teaching.taught
    monkeypatch.setattr(teaching, "taught", lambda *given: told.append(given) or original(*given))
    uri = together(tmp_path)
    job = small_job(tmp_path / "runs", epochs=1, max_examples=9, teachers={"quora": {"bundle": uri}})
    assert len(job.data.teachers["quora"]) == 2 and StageJob.of(job.to_json()) == job
    assert run(job)
    ((values, _, rows, _),) = told
    examples = read_examples(f"{sample_uri()}/quora-train.csv", TASKS["quora"], labelled=True).examples
    sides = [list(side) for side in zip(*(examples[row].texts for row in rows), strict=True)]
    wanted = answerer(read_ensemble(Storage(uri))).outputs("quora", *sides)
    assert (values - wanted).abs().max() < 1e-5 and wanted.std() > 0.01
    assert values.dtype == torch.float32


@pytest.mark.slow
def test_outputs_are_computed_once_and_anew_where_they_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, original = [], teaching.said_of
    monkeypatch.setattr(teaching, "said_of", lambda *given: calls.append(given[1].task) or original(*given))
    settings = {"epochs": 1, "max_examples": 33, "teachers": {"quora": {"bundle": saved(tmp_path, joined_teacher())}}}
    jobs = [small_job(tmp_path / "runs", f"run-{number}", **settings) for number in range(3)]
    doing: list[str] = []
    assert run(jobs[0], lambda progress: bool(doing.append(progress.doing)))
    assert "teacher quora" in doing
    assert run(jobs[1])
    assert calls == ["quora"]
    (file,) = (tmp_path / "runs" / "cache" / "features").iterdir()
    file.write_bytes(file.read_bytes()[:-40] + bytes(40))
    assert run(jobs[2])
    assert calls == ["quora", "quora"] and file.name in caplog.text
    plain = small_job(tmp_path / "runs", "plain", epochs=1, max_examples=33)
    assert run(plain)
    assert {difference(newest(jobs[0]).weights, newest(job).weights) for job in jobs} == {0}
    assert difference(newest(jobs[0]).weights, newest(plain).weights) > 1e-6


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_an_exported_cross_encoder_teaches_its_task(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named as a stage of an experiment is, FOLDER/NAME, which there is none of."""
    monkeypatch.chdir(tmp_path)
    folder = os.path.relpath(written(tmp_path / "exports", bundle_with({kind: "linear"}), kind))
    assert folder.count("/") == 1
    for name in ("train", "dev"):
        label = {"binary": "1", "multilabel": "price|staff"}[kind]
        (tmp_path / f"{name}.csv").write_text(
            "".join(f"{row}\n" for row in ["one,two,label", *[f"a b,c d,{label}"] * 8])
        )
    define = {"columns": ["one", "two"], "label": LABELS[kind]}
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "dev")}
    teachers = {kind: {"bundle": folder, "temperature": 2.0, "unlabelled": files["dev"]}}
    stages = [{"name": "student", "tasks": [kind], "teachers": teachers}]
    driver = tree_driver(tmp_path / "runs", stages, tasks={kind: {"define": define, **files}})
    lesson = driver.prepared.lessons["student"][kind]
    table = load_tokens(Storage(str(tmp_path / "runs")), lesson.train)
    assert (len(table), table.labelled) == (16, 8) and table.labels.shape[1:] == ((2,) if kind == "multilabel" else ())


def fingerprint(folder: Path, **stage: Any) -> tuple[str, dict[str, Any]]:
    driver = small_driver(folder, **stage)
    driver.claim()
    (record,) = driver.plan.records.values()
    return record.fingerprint, record.content


@pytest.mark.slow
def test_a_teachers_content_makes_a_stage_another_one_and_its_path_does_not(tmp_path: Path) -> None:
    uri, runs = saved(tmp_path, joined_teacher()), tmp_path / "runs"
    plain, content = fingerprint(runs)
    assert "teachers" not in content and "teachers" not in content["stage"]
    first, content = fingerprint(runs, teachers={"quora": {"bundle": uri}})
    assert first != plain and uri not in str(content)
    assert fingerprint(runs, teachers={})[0] == plain
    copied = Storage(str(tmp_path / "copy"))
    save_bundle(copied, "", joined_teacher())
    assert fingerprint(runs, teachers={"quora": {"bundle": copied.uri}})[0] == first
    others = [{"bundle": uri, "temperature": 2.0}, {"bundle": uri, "unlabelled": more_pairs(tmp_path)}]
    save_bundle(Storage(str(tmp_path / "other")), "", replace(joined_teacher(), pooling="cls"))
    others += [{"bundle": str(tmp_path / "other")}, {"bundle": together(tmp_path)}]
    assert len({plain, first, *(fingerprint(runs, teachers={"quora": other})[0] for other in others)}) == 6


# A teacher, what else the stage says, the path and what is said of it.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "no head": ({"bundle": "tiny"}, {}, [".bundle: 'tiny': ", "no trained head for task quora"]),
    "no experiment": ({"bundle": "no/such"}, {}, [".bundle: 'no/such': no experiment 'no'"]),
    "no encoder": ({"bundle": "tinny"}, {}, [".bundle: ", "'tinny'", "tiny"]),
    "another size": ({"embeddings": True}, {}, [".embeddings: ", "encodings of 32 numbers", "model of 64"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_teacher_that_cannot_teach_is_refused_before_any_work(tmp_path: Path, case: str) -> None:
    teacher, stage, parts = REFUSED[case]
    teacher = {"bundle": saved(tmp_path, joined_teacher()), **teacher}
    with pytest.raises(UserError) as caught:
        small_driver(tmp_path / "runs", teachers={"quora": teacher}, **stage)
    message = str(caught.value)
    assert message.startswith("stages.para.teachers.quora") and "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"label": replace(TASKS["quora"].label, kind="probability")},
            "answers probability 0 to 1, this recipe's binary",
        ),
        (
            {"label": replace(TASKS["quora"].label, words=("no", "yes"))},
            "answers binary no, yes, this recipe's binary 0",
        ),
        ({"columns": ("sentence1",)}, "has the texts sentence1, this recipe's sentence1, sentence2"),
    ],
)
def test_a_teacher_of_another_label_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_task(replace(TASKS["quora"], **change), TASKS["quora"], "stages.para.teachers.quora.bundle: 'x'")


def test_an_ensemble_has_no_encodings_to_learn(tmp_path: Path) -> None:
    teachers = {"quora": {"bundle": together(tmp_path), "embeddings": True}}
    with pytest.raises(UserError, match=r"teachers\.quora\.bundle: '.*together': an ensemble, whose members"):
        small_driver(tmp_path / "runs", teachers=teachers)


def test_a_head_of_tokens_learns_no_encodings(tmp_path: Path) -> None:
    teachers = {"sst": {"bundle": "tiny", "embeddings": True}}
    with pytest.raises(UserError, match=r"teachers\.sst\.embeddings: the head 'bilstm' reads tokens"):
        small_driver(tmp_path, tasks=["sst"], heads={"sst": "bilstm"}, teachers=teachers)
