"""Recipes and options as people write them: other editors' files, words that are nearly right, other tools' words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from multitask.errors import UserError
from multitask.recipe.data_check import check_data, render
from multitask.recipe.loading import load_recipe, load_sweep
from ray_jobs.options import workers_span
from tests.compat.table import Row

TEXT = """\
name: mine
encoder: tiny
tasks:
  sst: {head: mlp}
defaults: {epochs: 2, lr: 1e-3}
stages:
- {name: a, tasks: [sst], train: full-model}
"""
Run = Callable[[Path], None]


def _written(text: str, encoding: str = "utf-8") -> Run:
    """A recipe of that text that trains one stage for two epochs at a rate of .001."""

    def run(folder: Path) -> None:
        (folder / "mine.yaml").write_bytes(text.encode(encoding))
        (stage,) = load_recipe("mine.yaml").stages
        assert (stage.name, stage.epochs, stage.lr) == ("a", 2, 1e-3)

    return run


def _overridden(*overrides: str) -> Run:
    def run(folder: Path) -> None:
        (folder / "mine.yaml").write_text(TEXT)
        load_recipe("mine.yaml", list(overrides))

    return run


def _named(name: str) -> Run:
    return lambda folder: _ignore(load_recipe(name))


def _swept(folder: Path) -> None:
    (folder / "mine.yaml").write_text(TEXT)
    load_sweep("mine.yaml", [], "a", {"grid": {"lr": ["1e-3"]}, "by": "sst/acuracy"})


def _cuda(folder: Path) -> None:
    assert workers_span("2", "cuda") == workers_span("2", "gpu")


def _device(folder: Path) -> None:
    workers_span("2", "gppu")


def _hostile_header(folder: Path) -> None:
    """data check shows it, escaped, and goes on."""
    (folder / "ids-sst-dev.csv").write_text("\x1b[2J\u202esentence\tsentiment\nx\t1\n")
    (report,) = check_data(".")
    said = render([report])
    assert "not fit to train on" in said and "\x1b" not in said and "\u202e" not in said
    raise UserError(report.problem)


def _one_class(folder: Path) -> None:
    (folder / "ids-sst-train.csv").write_text("sentence\tsentiment\nx\t3\ny\t3\n")
    (report,) = check_data(".")
    raise UserError(render([report]).splitlines()[0])


def _ignore(value: object) -> None:
    """What is only to be read."""


ROWS: Sequence[Row] = (
    Row("a recipe with Windows line ends", "read", _written(TEXT.replace("\n", "\r\n"))),
    Row("a recipe with a byte order mark", "read", _written(TEXT, "utf-8-sig")),
    Row("a recipe in JSON", "read", _written(
        '{"name": "mine", "encoder": "tiny", "tasks": {"sst": {}}, "stages": [{"name": "a", "tasks": ["sst"], '
        '"train": "full-model", "epochs": 2, "lr": 0.001}]}'
    )),
    Row("a rate written 1e-3, which YAML 1.1 calls text", "read", _written(TEXT)),
    Row("a recipe in UTF-16, as PowerShell's `>` writes it", "refused", _written(TEXT, "utf-16"),
        "recipe 'mine.yaml': not a text file"),
    Row("a recipe indented by a tab", "refused", _written(TEXT.replace("  sst:", "\tsst:")),
        "mine.yaml: not YAML: line 4: indented by a tab; YAML takes spaces"),
    Row("a misspelt key in a recipe", "refused", _written(TEXT.replace("epochs", "epoch")),
        "mine.yaml: defaults.epoch: unknown key; ...; did you mean epochs?"),
    Row("a misspelt key in --set", "refused", _overridden("defaults.epoch=1"),
        "--set defaults.epoch=1: defaults.epoch: unknown key; ...; did you mean epochs?"),
    Row("a value in --set that is no number", "refused", _overridden("seed=3", "stages.a.lr=abc"),
        "--set stages.a.lr=abc: stages.a.lr: 'abc': Input should be a valid number"),
    Row("a head by nearly its name", "refused", _overridden("tasks.sst.head=bi-lstm"),
        "head 'bi-lstm' is unknown; ...; did you mean bilstm?"),
    Row("a packaged recipe by nearly its name", "refused", _named("bertaar/para-sts_cosine-sst-last"),
        "no such file; packaged recipes: ...; did you mean bertaar/para-sts_cosine-sst_last?"),
    Row("a sweep by nearly a metric's name", "refused", _swept,
        "--by: 'sst/acuracy' is not measured; valid: ...; did you mean sst/accuracy?"),
    Row("--device cuda", "read", _cuda),
    Row("a device that is none", "refused", _device, "--device 'gppu': one of auto, cpu, gpu; did you mean gpu?"),
    Row("control characters in a file's header", "refused", _hostile_header,
        "no column sentence; columns found: \\x1b[2J\\u202esentence"),
    Row("a training file whose labels are all the same, in data check", "refused", _one_class,
        "not fit to train on: sst train: ...: every label is 3: nothing to tell apart"),
)  # fmt: skip
