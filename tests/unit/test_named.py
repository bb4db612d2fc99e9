"""What an error names: the nearest name there is, the option that was wrong, nothing that a terminal would obey."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multitask.errors import UserError, near, printable
from multitask.experiment.finding import find_bundle, open_bundle
from multitask.optim import schedule
from multitask.recipe.data_maps import place_of
from multitask.recipe.loading import load_recipe, load_sweep
from ray_jobs.cli import app
from ray_jobs.options import workers_span


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("sstt", ["sst", "sts"], "sst"),
        ("STS", ["sst", "sts"], "sts"),
        ("sts/person", ["sts/pearson", "sst/accuracy"], "sts/pearson"),
        ("weather", ["sst", "sts"], ""),
        ("sst", ["sst"], ""),  # it is there: something else is wrong
    ],
)
def test_the_nearest_name(name: str, known: list[str], meant: str) -> None:
    assert near(name, known) == (f"; did you mean {meant}?" if meant else "")


NAMES = {
    "recipe": (lambda: load_recipe("demmo"), "recipe 'demmo': no such file; .*did you mean demo"),
    "recipe below a folder": (lambda: load_recipe("bertaar/lstmm"), "did you mean bertaar/lstm"),
    "stage": (lambda: load_recipe("demo", ["stages.stt.lr=1e-3"]), "no stage 'stt'; .*did you mean sts"),
    "swept stage": (lambda: load_sweep("demo", [], "stss", {}), "--stage 'stss': .*did you mean sts"),
    "task": (lambda: load_recipe("demo", ["tasks.quorra.head=mlp"]), "unknown task 'quorra'; .*did you mean quora"),
    "key": (lambda: load_recipe("demo", ["defaults.epoch=1"]), "defaults.epoch: unknown key; .*did you mean epochs"),
    "choice": (
        lambda: load_recipe("demo", ["stages.sst.train=last-liner-layer"]),
        "stages.sst.train: 'last-liner-layer': .*did you mean last-linear-layer",
    ),
    "head": (lambda: load_recipe("demo", ["tasks.sst.head=mpl"]), "head 'mpl' is unknown; .*did you mean mlp"),
    "metric": (
        lambda: load_recipe("demo", ["defaults.keep.best=sst/acuracy"]),
        "'sst/acuracy' is not measured; .*did you mean sst/accuracy",
    ),
    "schedule": (lambda: schedule("liner", 0, 1), "unknown schedule 'liner'; .*did you mean linear"),
    "device": (lambda: workers_span("0", "cpuu"), "--device 'cpuu': .*did you mean cpu"),
}


@pytest.mark.parametrize(("use", "said"), NAMES.values(), ids=NAMES)
def test_a_name_that_is_not_there_gets_the_nearest(use, said: str) -> None:
    with pytest.raises(UserError, match=said + r"\?"):
        use()


PLACES = {
    "a storage": (
        lambda: find_bundle("runs"),
        r"bundle 'runs': a storage, with the experiments demo, other; name a stage of one",
    ),
    "a text": (lambda: place_of("notes.md"), r"'notes.md': a data file; valid: a directory with the tasks' files"),
    "no bundle": (
        lambda: open_bundle("nowhere/at/all/of/it"),
        r"known: tiny, minilm-l6, .* a bundle \(runs/demo/sst\)",
    ),
}


@pytest.mark.parametrize(("use", "said"), PLACES.values(), ids=PLACES)
def test_what_is_another_thing_than_wanted_is_named(use, said: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "experiment.json").touch()
    (tmp_path / "notes.md").touch()
    with pytest.raises(UserError, match=said):
        use()


BLAMED = {
    ("defaults.epoch=1",): "--set defaults.epoch=1: defaults.epoch: unknown key",
    ("stages.sts.lr=abc",): "--set stages.sts.lr=abc: stages.sts.lr: 'abc': Input should be a valid number",
    (
        "defaults.epochs=1",
        "tasks.sst.head=cosine",
    ): "--set tasks.sst.head=cosine: tasks.sst: head 'cosine'",
    ("stages.sst.train=full-model", "stages.sts.lr=x"): "--set stages.sts.lr=x: ",
    ("defaults.keep.best=x/y", "defaults.epochs=2"): "--set defaults.keep.best=x/y: stages.para.keep.best: 'x/y'",
}


@pytest.mark.parametrize(("overrides", "said"), BLAMED.items())
def test_a_wrong_override_is_named_and_not_the_recipe(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("demo", list(overrides))
    assert str(caught.value).startswith(said)


def test_what_the_file_itself_has_wrong_is_the_files(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: r\ntasks: {sst: {hed: mlp}}\nstages: []\n")
    with pytest.raises(UserError, match=r"r\.yaml: tasks\.sst\.hed: unknown key"):
        load_recipe(str(file), ["seed=3"])
    file.write_text("name: r\ntasks:\n\tsst: {}\n")
    with pytest.raises(UserError, match=r"r\.yaml: not YAML: line 3: indented by a tab; YAML takes spaces"):
        load_recipe(str(file))


def test_a_sweeps_options_are_named() -> None:
    with pytest.raises(UserError, match=r"^--by: 'sts/person' is not measured; .*did you mean sts/pearson"):
        load_sweep("demo", [], "sts", {"by": "sts/person", "grid": {"lr": ["1e-3"]}})
    with pytest.raises(UserError, match=r"^--grid or --random: 'lrr' cannot be swept; .*did you mean lr"):
        load_sweep("demo", [], "sts", {"by": "sts/pearson", "grid": {"lrr": ["1e-3"]}})


def test_cuda_means_gpu() -> None:
    assert workers_span("2", "cuda") == (2, 2, "gpu")


OBEYED = "a\x1b[31mb\x07c\x9bd\u202ee\x00f"
SHOWN = r"a\x1b[31mb\x07c\x9bd\u202ee\x00f"


def test_what_a_terminal_would_obey_is_written_as_its_escape(tmp_path: Path) -> None:
    assert printable(OBEYED) == SHOWN
    assert printable("été\t漢字\n") == "été\t漢字\n"
    assert str(UserError(f"x {OBEYED}\r\n y")) == f"x {SHOWN} y"
    text = OBEYED.replace("\0", "")
    rows = [
        {"sentence": text, "sentiment": 3},
        {"sentence": text, "sentiment": 9},
        {"sentence": "x", "sentiment": text},
    ]
    (tmp_path / "ids-sst-dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "ids-sst-train.jsonl").write_text(json.dumps({text: 1}))
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert done.exit_code == 2
    assert r"\x1b[31m" in done.output
    assert not set(done.output) & set("\x1b\x07\x9b\u202e")


CHECKED = {
    "no rows": ("sentence,sentiment\n", "no rows"),
    "no usable row": ("sentence,sentiment\nx,9\n,3\n", "no usable row; 2 are quarantined"),
    "one class": ("sentence,sentiment\nx,3\ny,3\n", "every label is 3: nothing to tell apart"),
    "no such column": ("sentence,stars\nx,3\n", "no column sentiment"),
    "not of its format": ("\xff\xfes\0e\0", "UTF-16"),
}


@pytest.mark.parametrize(("content", "said"), CHECKED.values(), ids=CHECKED)
def test_data_check_ends_with_2_where_nothing_could_be_trained(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "ids-sst-train.csv").write_bytes(content.encode("latin-1"))
    (tmp_path / "ids-sst-dev.csv").write_text("sentence,sentiment\nx,3\ny,1\n")
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    first = done.output.splitlines()[0]
    assert first.startswith("not fit to train on: sst train: ") and said in first
    assert done.exit_code == 2
    assert "sst dev: 2 rows" in done.output
    (report, _) = json.loads(CliRunner().invoke(app, ["data", "check", str(tmp_path), "--json"]).stdout)
    assert said in report["problem"]


def test_data_check_says_what_training_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "ids-sst-train.csv").write_text("sentence,sentiment\nx,3\ny,1\nz,9\n")
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert "note: 1 of 3 rows are malformed: `train` refuses it where max_bad_rows is 0.01" in done.output
    assert done.exit_code == 0, "a recipe may allow it"


def test_data_check_of_similar_pairs_alone(tmp_path: Path) -> None:
    """Ranking learns from them."""
    (tmp_path / "quora-train.csv").write_text("sentence1,sentence2,is_duplicate\na,b,1\nc,d,1\n")
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path)]).exit_code == 0
    (tmp_path / "quora-train.csv").write_text("sentence1,sentence2,is_duplicate\na,b,0\nc,d,0\n")
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path)]).exit_code == 2


def test_data_check_of_scores_that_round_to_one(tmp_path: Path) -> None:
    (tmp_path / "sts-train.csv").write_text("sentence1,sentence2,similarity\na,b,2.1\na,c,2.9\nb,c,2.6\na,d,3.4\n")
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path)]).exit_code == 0
