"""`multitask.train`: what a notebook does, in a process that has other work too."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import multitask
from multitask.data.arrow_files import class_names
from multitask.errors import UserError
from multitask.experiment.checkpoints import CheckpointStore
from multitask.recipe.loading import load_recipe, recipe_of
from multitask.recipe.packaged import packaged_recipes
from multitask.storage.storage import Storage
from ray_jobs.driver import driver
from ray_jobs.python import _file
from ray_jobs.runners.cluster import own_signals
from tests.helpers import difference

RECIPE = multitask.Recipe(
    name="mine",
    encoder="tiny",
    tasks={"quora": multitask.Task(head="mlp")},
    defaults=multitask.Settings(epochs=2, batch_size=16),
    stages=[multitask.Stage(name="one", tasks=["quora"], train="full-model", lr=1e-3)],
)


def frame(count: int) -> pd.DataFrame:
    numbers = range(count)
    return pd.DataFrame(
        {
            "sentence1": [f"How do I learn {at % 7}?" for at in numbers],
            "sentence2": [f"How can I learn {at % 5}?" for at in numbers],
            "is_duplicate": [int(at % 7 == at % 5) for at in numbers],
        }
    )


def data() -> dict[str, dict[str, Any]]:
    return {"quora": {"train": frame(100), "dev": frame(40)}}


def test_a_frame_is_trained_on_and_what_it_gives_is_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "import_torchmetrics", lambda: pytest.fail("the process is not the project's own"))
    trained = multitask.train(RECIPE, data(), storage=tmp_path)
    assert [stage.name for stage in trained.stages] == ["one"] and trained.stages[0].seed == 11711
    assert trained.metrics["quora/accuracy"] == pytest.approx(
        trained.results["stages"][-1]["metrics"]["quora/accuracy"]
    )
    assert f"{trained!r}".startswith(f"<Trained {tmp_path}/mine: one: quora/accuracy ")
    assert trained.bundle.paraphrase("How do I learn 3?", "How can I learn 3?").probabilities.shape == (1,)
    curves = trained.curves()
    assert (
        curves["epoch"].tolist() == [0, 1, 2] and curves["quora/accuracy"].iloc[-1] == trained.metrics["quora/accuracy"]
    )
    assert [Path(page).is_file() for page in trained.report()] == [True, True]
    assert "one  epoch 2/2" in capsys.readouterr().out

    rows = {"quora": {"train": frame(100).to_dict("records"), "dev": pa.Table.from_pandas(frame(40))}}
    again = multitask.train(RECIPE.tree(), rows, storage=tmp_path)
    assert again.stages == trained.stages
    assert "one: finished before, skipped" in capsys.readouterr().out, "the content is equal, whatever holds it"


def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path: Path) -> None:
    def interrupt() -> None:
        checkpoints = tmp_path / "stopped"
        while not any(checkpoints.glob("mine/*/checkpoints/*/state.json")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    many = ["defaults.epochs=8", "defaults.checkpoint_steps=5", "defaults.validate=stage"]
    waiting = threading.Thread(target=interrupt)
    waiting.start()
    with pytest.raises(KeyboardInterrupt, match="what was saved is safe, and the same call goes on"):
        multitask.train(RECIPE, data(), storage=tmp_path / "stopped", overrides=many, quiet=True)
    waiting.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    both = [
        multitask.train(RECIPE, data(), storage=tmp_path / place, overrides=many, quiet=True)
        for place in ("stopped", "undisturbed")
    ]
    stopped, undisturbed = (
        CheckpointStore(Storage(one.stages[0].bundle.rpartition("/")[0]).at("checkpoints")) for one in both
    )
    one, other = stopped.newest(), undisturbed.newest()
    assert one and other and difference(one.weights, other.weights) == 0.0
    assert both[0].metrics == both[1].metrics


def test_ctrl_c_twice_ends_the_call_and_not_the_process(tmp_path: Path) -> None:
    """Lightning would make a SystemExit of it."""

    def interrupt() -> None:
        while not any(tmp_path.glob("mine/*/checkpoints/*/state.json")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before, many = signal.getsignal(signal.SIGINT), ["defaults.epochs=40", "defaults.checkpoint_steps=5"]
    waiting = threading.Thread(target=interrupt)
    waiting.start()
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        multitask.train(RECIPE, data(), storage=tmp_path, overrides=many, quiet=True)
    waiting.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "mine" / "driver.json").exists()


def test_a_thread_without_signals_trains_too(tmp_path: Path) -> None:
    found: list[Any] = []

    def train() -> None:
        with own_signals():  # which Ray's start is in
            found.append(multitask.train(RECIPE, data(), storage=tmp_path, overrides="defaults.epochs=1", quiet=True))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert [stage.name for stage in found[0].stages] == ["one"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (frame(3), r"data is .*; valid: a path, a URI, or a dict of tasks and their splits"),
        ({"qoura": data()["quora"]}, r"data\['qoura'\]: no task of recipe, which has quora; did you mean quora\?"),
        ({"quora": {"train": frame(4)}}, r"data\['quora'\] has no 'dev', which every task is measured on"),
        ({"quora": {"dev": frame(4)}}, r"data\['quora'\] has no 'train', which a stage learns from"),
        ({"quora": {"train": pd.DataFrame([[1, 2]], columns=["a", "a"])}}, "a column holds what no file"),
        ({"quora": {"trian": []}}, r"data\['quora'\]\['trian'\]: no such split; valid: train, dev, test"),
        ({"quora": {"train": 3}}, r"data\['quora'\]\['train'\] is 3; valid: a path, a pandas frame"),
        ({"quora": {"train": ["a", 1]}}, r"data\['quora'\]\['train'\] is \['a', 1\]; valid: "),
        ({"quora": [1]}, r"data\['quora'\] is \[1\]; valid: a dict of train, dev, test"),
        ({"quora": {"train": pd.DataFrame({"a": ["x", 1]})}}, "a column holds what no file of texts and labels does: "),
        ({"quora": {"train": [{"sentence1": "a"}], "dev": frame(4)}}, "no column sentence2, is_duplicate"),
    ],
)
def test_what_is_no_data_is_one_line(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        multitask.train(RECIPE, given, storage=tmp_path, quiet=True)
    assert len(str(caught.value).splitlines()) == 1


def test_tables_of_equal_content_are_one_file(tmp_path: Path) -> None:
    storage, table = Storage(str(tmp_path)), frame(5)
    views = [table, table.to_dict("records"), pa.Table.from_pandas(table), table.astype({"sentence1": "category"})]
    places = {_file(storage, "data", view) for view in views}
    assert len(places) == 1 and len({*places, _file(storage, "data", frame(6))}) == 2
    assert _file(storage, "data", Path("a.csv")) == "a.csv" and _file(storage, "data", ["a.csv", "b.csv"]) == [
        "a.csv",
        "b.csv",
    ]


def test_the_calls_own_tables_go_before_the_recipes_and_one_override_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = RECIPE.tree() | {"tasks": {"quora": {"head": "mlp", "train": "nowhere.csv", "dev": "nowhere.csv"}}}
    trained = multitask.train(tree, data(), storage=tmp_path, overrides="defaults.epochs=1", quiet=True)
    assert trained.curves()["epoch"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"recipe": 3}, "recipe is 3; valid: a Recipe"), ({"recipe": RECIPE, "seeds": 0}, "seeds: 0: at least 1")],
)
def test_what_is_no_recipe_is_one_line(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        multitask.train(**given, data=data(), storage=tmp_path)


def test_a_column_that_only_later_rows_have_is_kept(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    rows: list[dict[str, Any]] = [{"sentence": "a"}, {"sentence": "b", "id": "x"}]
    assert _file(storage, "data", rows) == _file(
        storage, "data", pd.DataFrame({"sentence": ["a", "b"], "id": [None, "x"]})
    )


class View:
    """As much of a datasets.Dataset that shows some rows as is asked for: `data` has all of them still, and a schema
    says what datasets knows of each column, and how the whole was made."""

    def __init__(self, table: pa.Table, rows: list[int] | None = None, **features: Any) -> None:
        info = {"info": {"features": {"sentence1": {"dtype": "string", "_type": "Value"}, **features}}}
        noted = {"huggingface": json.dumps(info | {"fingerprint": f"{id(self)}"})}
        self.data, self.rows = SimpleNamespace(table=table.replace_schema_metadata(noted)), rows

    def flatten_indices(self) -> View:
        return self if self.rows is None else View(self.data.table.take(self.rows))


def test_a_dataset_is_read_as_the_view_that_it_is(tmp_path: Path) -> None:
    table, storage = pa.Table.from_pandas(frame(9)), Storage(str(tmp_path))
    assert _file(storage, "data", View(table, [4, 2])) == _file(storage, "data", frame(9).iloc[[4, 2]])
    assert _file(storage, "data", View(table)) == _file(storage, "data", frame(9))
    named = [
        View(table, is_duplicate={"names": names, "_type": "ClassLabel"}) for names in (["no", "yes"], ["yes", "no"])
    ]
    places = [_file(storage, "data", one) for one in (*named, named[0])]
    assert places[0] == places[2] != places[1]
    with open(places[0], "rb") as file:
        assert class_names(pa.ipc.open_stream(file).schema.metadata) == {"is_duplicate": ["no", "yes"]}


@pytest.mark.parametrize("name", packaged_recipes())
def test_a_recipe_is_its_tree_and_its_tree_the_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe_of(recipe.tree(), "recipe") == recipe


def test_what_comes_later_is_there_and_nothing_else() -> None:
    assert {*multitask.__all__} >= {*multitask.LATER}
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        multitask.trian  # noqa: B018


def test_a_part_of_one_table_is_dev(tmp_path: Path) -> None:
    tree = RECIPE.tree() | {"tasks": {"quora": {"head": "mlp", "split": {"dev": 0.3}}}}
    trained = multitask.train(
        tree, {"quora": {"train": frame(100)}}, storage=tmp_path, overrides="defaults.epochs=1", quiet=True
    )
    used = trained.results["data"]["quora"]["rows_used"]
    assert used["train"] + used["dev"] == 100 and 15 < used["dev"] < 45
    assert multitask.Task(split=multitask.Split(dev=0.3)).split == multitask.Split(dev=0.3)


def test_what_is_wrong_with_a_table_names_it_as_the_caller_does(tmp_path: Path) -> None:
    tree = RECIPE.tree() | {"tasks": {"quora": {"head": "mlp", "split": {"dev": 0.3}}}}

    def said(table: Any, **given: Any) -> str:
        with pytest.raises(UserError) as caught:
            multitask.train(tree, {"quora": {"train": table}}, storage=tmp_path, quiet=True, **given)
        return str(caught.value)

    assert said(frame(40).rename(columns={"is_duplicate": "same"})) == (
        "data['quora']['train']: no column is_duplicate; columns found: sentence1, sentence2, same"
    )
    assert said(frame(40), experiment="no name").startswith("experiment 'no name': ")
    assert said(frame(40).is_duplicate).startswith("data['quora']['train'] is ")
    bad = said(frame(40).assign(sentence2=[f"n{at}" for at in range(40)], is_duplicate=[2] * 12 + [1] * 28))
    part, counts = bad.split(": ")[:2]
    malformed, rows = (int(word) for word in counts.split() if word.isdigit())
    assert part.startswith("data['quora']['train']#train of dev=0.3")
    assert 3 < malformed < 12 and 15 < rows < 40, "of the part's own rows"


def test_folds_from_python_are_those_of_the_command(tmp_path: Path) -> None:
    rows = frame(60).assign(sentence2=[f"what is {at}?" for at in range(60)])
    data = {"quora": {"train": rows}}
    found = multitask.cross_validate(RECIPE, data, 2, storage=tmp_path, overrides="defaults.epochs=1", quiet=True)
    predictions = found.predictions("quora")
    assert len(predictions) == 60 and sorted(predictions.id.astype(int)) == [*range(1, 61)]
    assert [rows.is_duplicate[int(at) - 1] for at in predictions.id] == [*predictions.is_duplicate]
    right = (predictions.iloc[:, 2] == predictions.is_duplicate).groupby(predictions.fold).mean()
    assert found.metrics == {"quora/accuracy": pytest.approx(right.mean())}
    with pytest.raises(UserError, match=r"^task 'sst': no out-of-fold predictions; there are those of quora$"):
        found.predictions("sst")
    with pytest.raises(UserError, match=r"^folds 1: 2 or more"):
        multitask.cross_validate(RECIPE, data, 1, storage=tmp_path, quiet=True)
