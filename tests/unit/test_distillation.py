"""Distillation: torch's numbers, finite differences, what teachers say of which examples, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules import teaching
from lightning_modules.data import StageData, rows_of
from multitask.bundle.bundle import Bundle, bundle_of, read_bundle, save_bundle
from multitask.data.batches import collate
from multitask.data.readers import read_examples
from multitask.data.sample import sample_uri
from multitask.data.samplers import training_rows
from multitask.data.tokens import TokenTable, load_tokens
from multitask.errors import UserError
from multitask.experiment.stage_job import StageJob
from multitask.experiment.teachers import said_of, taught, teacher_model
from multitask.inference.predict import Predictor
from multitask.measure.evaluate import EvalSet
from multitask.model.multitask import MultitaskModel
from multitask.objectives.base import Place
from multitask.objectives.distillation import Taught, with_labels
from multitask.objectives.losses import LOSSES
from multitask.recipe.stages import Stage
from multitask.storage.storage import Storage
from multitask.tasks.labels import KINDS, LabelSpec
from multitask.tasks.own import paired
from multitask.tasks.table import TASKS
from ray_jobs.driver.teachers import check_task
from tests.helpers import (
    difference,
    newest,
    objective_of,
    random_sentences,
    run,
    small_driver,
    small_job,
    table_of,
    tiny,
    tree_driver,
)
from tests.unit.test_cross_encoder import LABELS, bundle_with, written

CPU = torch.device("cpu")
SPECS = {
    "classes": LabelSpec("classes", "label", 0, 4),
    "binary": LabelSpec("binary", "label", 0, 1),
    "score": LabelSpec("score", "label", 1, 5),
    "probability": LabelSpec("probability", "label", 0, 1),
    "multilabel": LabelSpec("multilabel", "label", 0, 2),
}
assert SPECS.keys() == KINDS.keys() == LABELS.keys()


def drawn(kind: str, seed: int, count: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, *SPECS[kind].shape, generator=generator, dtype=torch.float64)


def by_torch(outputs: Tensor, teacher: Tensor, kind: str, temperature: float) -> Tensor:
    """The batch's mean by torch's own losses: a yes or no is two classes, several are yes or no each."""
    if kind == "score":
        return F.mse_loss(outputs, teacher) / 16
    if kind != "classes":
        outputs, teacher = (torch.stack((torch.zeros_like(it), it), dim=-1).flatten(0, -2) for it in (outputs, teacher))
    p, q = (teacher / temperature).softmax(-1), (outputs / temperature).log_softmax(-1)
    return F.kl_div(q, p, reduction="batchmean") * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 3.5])
@pytest.mark.parametrize("kind", SPECS)
def test_a_kinds_loss_is_torchs_and_its_gradient_that_of_finite_differences(kind: str, temperature: float) -> None:
    outputs, teacher, label = drawn(kind, 1), drawn(kind, 2), SPECS[kind]
    losses = KINDS[label.kind].taught(outputs, teacher, label, temperature)
    assert losses.shape == (7,) and (losses > 0).all()
    assert losses.mean().item() == pytest.approx(by_torch(outputs, teacher, kind, temperature).item(), rel=1e-12)
    assert KINDS[label.kind].taught(teacher, teacher, label, temperature).abs().max() < 1e-14
    student = outputs.requires_grad_()
    assert torch.autograd.gradcheck(lambda it: KINDS[label.kind].taught(it, teacher, label, temperature), student)


def test_extreme_logits_of_halves_have_a_finite_loss() -> None:
    far = torch.tensor([200.0, -200.0], dtype=torch.bfloat16)
    found = KINDS["binary"].taught(far, -far, SPECS["binary"], 1.0)
    assert found.dtype == torch.float32 and found.tolist() == [200, 200]


# Task, sentences an example, what its teacher says of it.
TAUGHT: dict[str, tuple[str, int, dict[str, Any]]] = {
    "classes": ("sst", 1, {"temperature": 2.0, "weight": 0.7}),
    "binary": ("quora", 2, {"temperature": 3.0}),
    "score": ("sts", 2, {}),
    "embeddings": ("sts", 2, {"embeddings": True, "weight": 1.0}),
}


def student(kind: str, labels: list[float]) -> Any:
    """The objective of a stage in float64 that a made-up teacher teaches, over as many examples as labels."""
    task, per, teacher = TAUGHT[kind]
    table = table_of(random_sentences(per * len(labels)), labels, per)
    made = objective_with(table, task, {"bundle": "a/b", **teacher})
    generator, per = torch.Generator().manual_seed(3), per if kind == "embeddings" else 1
    width = (tiny().config.hidden_size,) if kind == "embeddings" else TASKS[task].label.shape
    values = torch.randn(per * len(labels), *width, generator=generator, dtype=torch.float64)
    made.taught[task] = Taught(values, torch.arange(per * len(labels)), per)
    return made


def objective_with(table: TokenTable, task: str, teacher: dict[str, Any]) -> Any:
    return objective_of({task: table}, teachers={task: teacher})


def loss_of(made: Any, rows: list[int], weights: list[float] | None = None) -> tuple[Tensor, Tensor]:
    (task,) = made.setup.tasks
    given = np.array(weights or [1.0] * len(rows), np.float32)
    total, count = made.loss(made.batch(task, np.array(rows), given, "now"), Place())
    return total, count


@pytest.mark.parametrize("kind", TAUGHT)
def test_the_encoders_gradient_is_that_of_finite_differences(kind: str) -> None:
    made, rows = student(kind, [1, 0, 1, float("nan")]), [0, 1, 2, 3]
    weight = made.model.encoder.embeddings.position_embeddings.weight
    made.loss(made.batch(made.setup.tasks[0], np.array(rows), np.ones(4, np.float32), "now"), Place())[0].backward()
    at = divmod(int(weight.grad.abs().argmax()), weight.shape[1])
    found, step = weight.grad[at].item(), 1e-5
    ends = []
    for moved in (step, -2 * step):
        with torch.no_grad():
            weight[at] += moved
        ends.append(loss_of(made, rows)[0].item())
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6) and abs(found) > 1e-6


@pytest.mark.parametrize("kind", TAUGHT)
def test_an_example_without_a_label_learns_from_the_teacher_alone(kind: str) -> None:
    task, _, teacher = TAUGHT[kind]
    weight = teacher.get("weight", 0.5)
    labels = [1.0, 0.0, float("nan"), float("nan")]
    made = student(kind, labels)
    total, count = loss_of(made, [0, 1, 2, 3])
    assert count == 4
    alone = [loss_of(made, [row])[0].item() for row in range(4)]
    assert total.item() == pytest.approx(sum(alone), rel=1e-9)
    batch = made.batch(task, np.arange(4), np.ones(4, np.float32), "now")
    outputs, said = made.model(batch), made.taught[task].of(np.arange(4))
    if kind == "embeddings":
        first, second = said.chunk(2)
        apart = F.mse_loss(made.model.features(batch), torch.cat((first, second)), reduction="none").mean(1)
        apart = (apart[:4] + apart[4:]) / 2
    else:
        label = TASKS[task].label
        apart = KINDS[label.kind].taught(outputs, said, label, teacher.get("temperature", 1.0))
    assert alone[3] == pytest.approx(weight * apart[3].item(), rel=1e-9)
    own = LOSSES[made.setup.losses[task]].sums(outputs[:1], batch.labels[:1], batch.weights[:1])[0].item()
    assert alone[0] == pytest.approx((1 - weight) * own + weight * apart[0].item(), rel=1e-9)
    filled, counted = loss_of(made, [0, 3], [1.0, 0.0])
    assert counted == 1 and filled.item() == pytest.approx(alone[0], rel=1e-9)


def taught_by_halves(task: str, labels: list[float], teacher: dict[str, Any], **stage: Any) -> Any:
    """The objective of a student over those labels, whose teacher says .5 of every example."""
    per = len(TASKS[task].columns)
    table = table_of(random_sentences(per * len(labels)), labels, per)
    made = objective_of({task: table}, teachers={task: {"bundle": "a/b", **teacher}}, **stage)
    made.taught[task] = Taught(torch.full((len(labels), *TASKS[task].label.shape), 0.5), torch.arange(len(labels)), 1)
    return made


def test_a_loss_of_pairs_leaves_out_those_without_a_label() -> None:
    made = taught_by_halves("sts", [1.0, float("nan"), 4.0], {}, losses={"sts": "cosent"})
    pair, alone, all_ = (loss_of(made, rows)[0].item() for rows in ([0, 2], [1], [0, 2, 1]))
    assert all_ == pytest.approx(pair + alone, rel=1e-9)
    outputs = made.model(made.batch("sts", np.array([1]), np.ones(1, np.float32), "now"))
    apart = KINDS["score"].taught(outputs, torch.tensor([0.5]), TASKS["sts"].label, 1.0)
    assert alone == pytest.approx(0.5 * apart.item(), rel=1e-9) and pair > alone


def test_balanced_classes_are_counted_where_there_are_labels() -> None:
    nan = float("nan")
    some, others = ([0.0, 0.0, 0.0, 1.0, *more] for more in ([], [nan, nan]))
    made = [
        taught_by_halves("sst", labels, {}, loss_settings={"sst": {"class_weights": "balanced"}}, rdrop=0.5)
        for labels in (some, others)
    ]
    weights = [one.settings["sst"]["class_weights"] for one in made]
    assert torch.equal(*weights) and weights[0][1] == 3 * weights[0][0]
    assert loss_of(made[1], [4, 5])[0].isfinite()


def test_several_labels_may_be_missing_too() -> None:
    table = table_of(random_sentences(2), [0, 0], 1)
    table = replace(table, labels=torch.tensor([[1.0, 0.0], [float("nan")] * 2]))
    assert table.labelled == 1
    known = with_labels(collate("sst", table, np.arange(2), np.ones(2, np.float32)))
    assert known.weights.tolist() == [1, 0] and known.labels.tolist() == [[1, 0], [0, 0]]


def test_rows_without_a_label_do_not_change_which_others_are_used() -> None:
    labels = [1.0] * 20
    table = table_of(random_sentences(20), labels, 1)
    more = table_of(random_sentences(50), [*labels, *[float("nan")] * 30], 1)
    for cap in (None, 7):
        rows = rows_of(more, cap, 3, "sst")
        assert rows_of(table, cap, 3, "sst").tolist() == training_rows(20, cap, 3, "sst").tolist()
        assert rows[rows < 20].tolist() == training_rows(20, cap, 3, "sst").tolist()
        assert (np.diff(rows) > 0).all() and (rows >= 20).sum() == (cap or 30)


# Teachers of tasks, in a storage.


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


def more_pairs(folder: Path) -> str:
    rows = ["sentence1,sentence2", *(f"What is {word}?,Is {word} good?" for word in ("tea", "the sea", "a LION"))]
    (folder / "more.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "more.csv")


def test_a_joined_teacher_says_of_each_example_what_it_predicts_of_its_texts(tmp_path: Path) -> None:
    uri, more = saved(tmp_path, joined_teacher()), more_pairs(tmp_path)
    job = small_job(tmp_path / "runs", teachers={"quora": {"bundle": uri, "unlabelled": more}})
    stage, teacher = Stage.model_validate(job.stage), Stage.model_validate(job.stage).teachers["quora"]
    data, lesson = StageData(job, stage), StageJob.of(job.to_json()).data.teachers["quora"]
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
    data, lesson, teacher = StageData(job, stage), job.data.teachers["quora"], stage.teachers["quora"]
    rows, bundle = data.rows["quora"][:20], read_bundle(data.storage, lesson.bundle)
    table, model = load_tokens(data.storage, lesson.tokens), teacher_model(bundle, TASKS["quora"], teacher, CPU)
    values = said_of(model, EvalSet.of("quora", table, "cpu", rows=rows), rows, teacher, CPU)
    found = taught(values, data.tables["quora"], rows, teacher).of(rows[[5, 2]])
    examples = read_examples(f"{sample_uri()}/quora-train.csv", TASKS["quora"], labelled=True).examples
    texts = [examples[row].texts[side] for side in (0, 1) for row in rows[[5, 2]]]
    assert (found - Predictor(bundle).sentences(texts)).abs().max() < 1e-5


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
def test_an_exported_cross_encoder_teaches_its_task(tmp_path: Path, kind: str) -> None:
    folder = written(tmp_path, bundle_with({kind: "linear"}), kind)
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
    others.append({"bundle": str(tmp_path / "other")})
    assert len({plain, first, *(fingerprint(runs, teachers={"quora": other})[0] for other in others)}) == 5


# A teacher, what else the stage says, the path and what is said of it.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "no head": ({"bundle": "tiny"}, {}, [".bundle: 'tiny': ", "no trained head for task quora"]),
    "no experiment": ({"bundle": "no/such"}, {}, [".bundle: 'no/such': no experiment 'no'"]),
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


def test_a_head_of_tokens_learns_no_encodings(tmp_path: Path) -> None:
    teachers = {"sst": {"bundle": "tiny", "embeddings": True}}
    with pytest.raises(UserError, match=r"teachers\.sst\.embeddings: the head 'bilstm' reads tokens"):
        small_driver(tmp_path, tasks=["sst"], heads={"sst": "bilstm"}, teachers=teachers)
