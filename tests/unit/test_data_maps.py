"""Data by URI: a map says where tasks' files lie and what their columns are called; the shipped map of the hub."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from multitask.data.files import expanded, find_file, local
from multitask.data.sample import sample_uri
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.recipe.data_check import check_data, render
from multitask.recipe.data_maps import is_map, mapped, place_of
from multitask.recipe.loading import load_recipe, load_sweep
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS, Split
from ray_jobs.bundles.scoring import evaluate_bundle, predict_bundle
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from tests.conftest import ROOT
from tests.hub import FILES, hub, web, write_hub
from tests.s3 import S3

SHIPPED = (ROOT / "configs" / "data" / "glue.yaml").read_text()
QUICK = ["defaults.epochs=1", "defaults.max_examples=40", "defaults.validate=stage"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write_hub(folder)
    return folder


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT would do, which is read once a process."""
    import huggingface_hub.constants

    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    fsspec.get_filesystem_class("hf").clear_instance_cache()


@pytest.fixture(params=["directory", "s3", "http", "hf"])
def shipped(
    request: pytest.FixtureRequest, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The shipped map, of files of the hub's columns and types, in each of these places."""
    root = f"{files}/"
    with ExitStack() as stack:
        if request.param == "s3":
            s3: S3 = request.getfixturevalue("s3")
            root = f"{s3.uri}/"
            for file in files.rglob("*.*"):
                Storage(s3.uri).write_bytes(str(file.relative_to(files)), file.read_bytes())
        if request.param == "http":
            root = f"{stack.enter_context(web(files))}/"
        if request.param == "hf":
            use_hub(monkeypatch, stack.enter_context(hub(files)))
            root = "hf://datasets/"
        (tmp_path / "map.yaml").write_text(SHIPPED.replace("hf://datasets/", root))
        yield str(tmp_path / "map.yaml")
    if request.param == "hf":
        fsspec.get_filesystem_class("hf").clear_instance_cache()


def test_the_shipped_map_reads_the_hubs_files_wherever_they_lie(shipped: str) -> None:
    place = place_of(shipped)
    found = [(task, split) for task in FILES for split in ("train", "dev", "test") if place.has(TASKS[task], split)]
    assert found == [(task, split) for task, (_, files, _) in FILES.items() for split in files]
    task: str
    split: Split
    for task, split in found:
        spec, labelled = TASKS[task], split != "test"
        columns = place.columns(task, {})
        ours = read_examples(place.find(spec, split), spec, labelled=labelled, columns=columns, max_bad_rows=0.0)
        sample = read_examples(find_file(sample_uri(), spec, split), spec, labelled=labelled)
        assert [example.texts for example in ours.examples] == [example.texts for example in sample.examples]
        assert [example.label for example in ours.examples] == pytest.approx(
            [example.label for example in sample.examples]
        )


def train(recipe: str, data: str, storage: Path, *overrides: str) -> dict[str, Any]:
    loaded = load_recipe(recipe, [*QUICK, *overrides], mapped(data))
    request = TrainingRequest(loaded, data, Storage(str(storage)), loaded.name, Workers(), False)
    with StopRequest("") as stop:
        return Driver(request, Screen()).run(stop)


@pytest.mark.slow
def test_a_recipe_is_trained_evaluated_and_predicts_by_a_map(
    shipped: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_map = train("demo", shipped, tmp_path / "runs")
    by_name = train("demo", sample_uri(), tmp_path / "other")
    # Other columns, another stage, but the same rows: what it learned is the same.
    assert [row["metrics"] for row in by_map["stages"]] == [row["metrics"] for row in by_name["stages"]]
    assert by_map["data"]["quora"]["source"]["dev"].endswith("qqp/validation-00000-of-00001.parquet")
    bundle = str(tmp_path / "runs" / "demo" / by_map["stages"][-1]["bundle"])
    evaluate_bundle(bundle, sample_uri(), "dev", screen=Screen())  # in files of the tasks' own columns, too
    assert "sts/pearson" in capsys.readouterr().out
    evaluate_bundle(bundle, shipped, "dev", screen=Screen())
    assert "sst/accuracy" in capsys.readouterr().out
    predict_bundle(bundle, shipped, str(tmp_path / "out"), Screen())
    assert "quora: no test file in" in capsys.readouterr().out
    predictions = sorted(file.name for file in (tmp_path / "out" / "predictions").iterdir())
    assert predictions == [f"{name}-output.csv" for name in ("para-dev", "sst-dev", "sst-test", "sts-dev", "sts-test")]
    assert "sst train: 600 rows" in render(check_data(shipped)) and "quora dev: 150 rows" in render(check_data(shipped))


def test_the_shipped_map_is_found_by_name_and_gives_way_to_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_map("glue") and is_map("configs/data/glue.yaml") and is_map("s3://bucket/my.yaml")
    assert not is_map("s3://bucket/glue") and not is_map("demo")
    assert set(place_of("glue").tasks) == set(place_of("configs/data/glue.yaml").tasks) == set(FILES)
    (tmp_path / "glue").mkdir()
    assert not is_map("glue")


def write(path: Path, tree: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree) if not isinstance(tree, str) else tree)
    return str(path)


def test_a_recipes_own_words_win_over_the_map(tmp_path: Path) -> None:
    below = {"train": "s3://map/train.csv", "dev": "s3://map/dev.csv", "columns": {"sentence": "text"}}
    data = write(tmp_path / "map.yaml", {"tasks": {"sst": below, "sts": {"dev": "x.csv"}}})
    stage = {"name": "a", "tasks": ["sst"], "train": "full-model", "lr": 1.0}
    tree = {"name": "a", "encoder": "tiny", "tasks": {"sst": {"dev": "mine.csv"}}, "stages": [stage]}
    recipe = load_recipe(write(tmp_path / "recipe.yaml", tree), ["tasks.sst.test=set.csv"], mapped(data))
    assert list(recipe.tasks) == ["sst"]
    task = recipe.tasks["sst"]
    assert (task.train, task.dev, task.test) == ("s3://map/train.csv", "mine.csv", "set.csv")
    assert task.columns == {"sentence": "text"}
    settings = {"grid": {"lr": ["1e-3"]}, "by": "sst/accuracy"}
    swept, _ = load_sweep(str(tmp_path / "recipe.yaml"), None, "a", settings, mapped(data))
    assert (swept.tasks["sst"].train, swept.tasks["sst"].dev) == ("s3://map/train.csv", "mine.csv")


def test_paths_of_a_map_are_relative_to_its_folder_those_of_a_recipe_are_not(tmp_path: Path) -> None:
    tasks = {"sst": {"train": ["a.csv", "/b.csv", "s3://c/d.csv"], "dev": "e.csv"}}
    place = place_of(write(tmp_path / "map.yaml", {"tasks": tasks}))
    assert place.find(TASKS["sst"], "train") == [f"{tmp_path}/a.csv", "/b.csv", "s3://c/d.csv"]
    stages = [{"name": "a", "tasks": ["sst"], "train": "full-model", "lr": 1.0}]
    recipe = {"name": "a", "encoder": "tiny", "tasks": tasks, "stages": stages}
    assert place_of(write(tmp_path / "recipe.yaml", recipe)).find(TASKS["sst"], "dev") == ["e.csv"]


def test_a_map_may_lie_beside_its_files_anywhere(s3: S3) -> None:
    Storage(s3.uri).write_bytes("maps/my.yaml", b"tasks: {sst: {dev: dev.csv}}")
    Storage(s3.uri).write_bytes("maps/dev.csv", b"sentence,sentiment\nfine,3\n")
    (report,) = check_data(f"{s3.uri}/maps/my.yaml")
    assert (report.task, report.split, report.rows, report.problem) == ("sst", "dev", 1, "")


# A map's text -> the YAML path, the value, what would be valid.
WRONG = {
    "tasks: {sst: {trian: a.csv}}": ["tasks.sst.trian: unknown key", "train", "dev"],
    "tasks: {rte: {train: a.csv}}": ["tasks.rte: unknown task 'rte'", "quora", "define"],
    "tasks: {sst: {train: a.csv, columns: {text: x}}}": ["tasks.sst.columns: 'text'", "sentence, sentiment, id"],
    "tasks: {sst: {train: 5}}": ["tasks.sst.train: 5", "string"],
    "tasks: {sst: {train: []}}": ["tasks.sst.train: []", "at least 1"],
    "tasks: {}": ["tasks: {}", "at least 1"],
    "sst: {train: a.csv}": ["sst: unknown key", "tasks"],
    "[1, 2]": ["[1, 2]"],
    "a: [": ["not YAML"],
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_map_is_one_line_that_says_where(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as caught:
        mapped(write(tmp_path / "map.yaml", text))
    message = str(caught.value)
    assert str(tmp_path / "map.yaml") in message
    assert all(part in message for part in WRONG[text]), message


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nosuch.yaml': no such file; packaged maps: glue"):
        mapped("nosuch.yaml")
    data = write(tmp_path / "map.yaml", {"tasks": {"sst": {"train": "a.csv"}}})
    with pytest.raises(UserError, match=r"tasks\.sst\.dev: .*map.yaml names no file"):
        train("demo", data, tmp_path / "runs")
    data = write(tmp_path / "map.yaml", {"tasks": {"sst": {"columns": {"sentence": "text"}}}})
    with pytest.raises(UserError, match="no files; a map gives train:"):
        check_data(data)


def shards(folder: Path) -> list[str]:
    parts = ["id,sentence,sentiment\na,fine,3\nb,bad,9\n", "sentence,sentiment\npoor,0\n", "sentence,sentiment\n"]
    return [write(folder / "shards" / f"part-{at}.csv", text) for at, text in enumerate(parts)]


@pytest.mark.parametrize("named", [shards, lambda folder: shards(folder)[0].replace("-0", "-*")])
def test_several_files_are_read_as_one(tmp_path: Path, named: Callable[[Path], Any]) -> None:
    place = place_of(write(tmp_path / "map.yaml", {"tasks": {"sst": {"dev": named(tmp_path)}}}))
    result = read_examples(place.find(TASKS["sst"], "dev"), TASKS["sst"], labelled=True, max_bad_rows=0.4)
    assert [(example.id, example.texts) for example in result.examples] == [("a", ("fine",)), ("2:2", ("poor",))]
    assert [(row.line, row.reason) for row in result.quarantined] == [
        (3, f"{tmp_path}/shards/part-0.csv: sentiment is not in 0..4: '9'")
    ]
    with pytest.raises(UserError, match="1 of 3 rows are malformed"):
        read_examples(place.find(TASKS["sst"], "dev"), TASKS["sst"], labelled=True)
    one = read_examples(shards(tmp_path)[0], TASKS["sst"], labelled=True, max_bad_rows=1)
    swapped = read_examples(shards(tmp_path)[:2][::-1], TASKS["sst"], labelled=True, max_bad_rows=1)
    assert len({one.sha256, result.sha256, swapped.sha256}) == 3


def test_a_pattern_on_an_object_store(s3: S3) -> None:
    for name in ("b-2.csv", "b-1.csv", "c-1.csv"):
        Storage(s3.uri).write_bytes(f"data/{name}", b"x")
    assert expanded(f"{s3.uri}/data/b-*.csv") == [f"{s3.uri}/data/b-1.csv", f"{s3.uri}/data/b-2.csv"]
    with pytest.raises(UserError, match=r"d-\*.csv: no file fits"):
        expanded(f"{s3.uri}/data/d-*.csv")


@pytest.mark.slow
def test_the_web(files: Path) -> None:
    spec = TASKS["sst"]
    columns = {"sentence": "text", "sentiment": "label"}
    with web(files) as url:
        found = read_examples(f"{url}/SetFit/sst5/dev.jsonl?download=true", spec, labelled=True, columns=columns)
        assert len(found.examples) == 150
        with pytest.raises(UserError, match=r"gone.jsonl: no such file there; a browser"):
            read_examples(f"{url}/gone.jsonl", spec, labelled=True)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"sst5/dev.jsonl: cannot be read"), patience(1.0):
        read_examples(f"{url}/SetFit/sst5/dev.jsonl", spec, labelled=True)  # nobody is there any more
    assert time.monotonic() - began < 20


class patience:
    """A storage that fails is given up after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.patch, self.seconds = pytest.MonkeyPatch(), seconds

    def __enter__(self) -> None:
        self.patch.setattr("multitask.storage.retries.PATIENCE", self.seconds)

    def __exit__(self, *error: object) -> None:
        self.patch.undo()


STSB = "hf://datasets/nyu-mll/glue/stsb/train-00000-of-00001.parquet"


@pytest.mark.parametrize(
    ("status", "uri", "said"),
    [
        (0, STSB, "ConnectError"),
        (401, STSB, "no such file there"),  # a private data set and none at all are answered alike
        pytest.param(403, STSB, "403", marks=pytest.mark.slow),
        (500, STSB, "500"),
        pytest.param(200, STSB.replace("train-", "gone-"), "no such file there", marks=pytest.mark.slow),
        (200, STSB.replace("glue", "glum"), "no such file there"),
    ],
)
def test_a_hub_that_does_not_give_a_file_is_one_line_and_soon(
    files: Path, monkeypatch: pytest.MonkeyPatch, status: int, uri: str, said: str
) -> None:
    began = time.monotonic()
    with hub(files, status or 200) as endpoint:
        use_hub(monkeypatch, endpoint if status else "http://127.0.0.1:9")
        with pytest.raises(UserError) as caught, local(uri):
            pass
    message = str(caught.value)
    assert message.startswith(f"{uri}: ") and said in message and "HF_TOKEN" in message
    assert time.monotonic() - began < 20


def test_the_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "hf", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"nyu-mll/glue.*huggingface_hub"), local(STSB):
        pass
