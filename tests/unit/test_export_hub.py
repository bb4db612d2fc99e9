"""The model card's facts, and what is said where the hub cannot be had."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multitask.bundle.bundle import Bundle, save_bundle
from multitask.errors import UserError
from multitask.export import FORMATS
from multitask.export.model_card import model_card
from multitask.export.provenance import Provenance, provenance_of
from multitask.storage.storage import Storage
from ray_jobs.bundles import hub as ours
from ray_jobs.bundles.export import export_bundle
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from tests.exports import bundle_with, exported, imported
from tests.helpers import tree_driver

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs")
    stages = [{"name": "para", "tasks": ["quora"]}, {"name": "sst", "tasks": ["sst"]}]
    results = tree_driver(folder, stages).run(StopRequest(""))
    return {"folder": folder / "tree", **results}


@pytest.fixture(scope="module")
def trained(experiment: dict[str, Any]) -> str:
    return str(experiment["folder"] / experiment["stages"][-1]["bundle"])


@pytest.mark.slow
def test_the_card_says_what_the_trainers_folder_knows(experiment: dict[str, Any], trained: str, tmp_path: Path) -> None:
    folder = exported(trained, "sentence-transformers", tmp_path / "out")
    page = hub.ModelCard.load(folder / "README.md")
    stage, data = experiment["stages"][-1], page.data
    assert data.library_name == "sentence-transformers" and data.pipeline_tag == "sentence-similarity"
    assert data.license == "other" and data.language == ["en"] and {"quora", "sst", "sts"} <= {*data.tags}
    found = {result.metric_name: result for result in data.eval_results}
    assert found.keys() == {"sst/accuracy", "quora/accuracy", "sts/pearson"}
    for name, result in found.items():
        assert result.metric_value == stage["metrics"][name]
        assert result.metric_args == {"interval_95": list(stage["intervals"][name])}
    value, (low, high) = stage["metrics"]["sst/accuracy"], stage["intervals"]["sst/accuracy"]
    assert f"| sst/accuracy | {value:.3f} | {low:.3f} .. {high:.3f} | 150 |" in page.text
    assert "| quora | 40 | 150 | 0 |" in page.text and "| para | supervised | full-model | 1 |" in page.text
    assert "| data of quora | the project's own sample" in page.text


@pytest.mark.slow
def test_a_bundle_that_left_home_is_not_said_to_be_worth_anything(trained: str, tmp_path: Path) -> None:
    assert provenance_of(str(Path(trained).parent / "checkpoints")) == Provenance()
    text = model_card(bundle_with(), "transformers", Provenance(), "me/mine")
    page = hub.ModelCard(text)
    assert page.data.eval_results is None and "Not measured where it was exported from" in text
    assert "from_pretrained('me/mine')" in text and "weak" not in text  # a note on a task that trained nothing


def with_about(**about: Any) -> Bundle:
    return Bundle(**{**vars(bundle_with()), "about": about})


@pytest.mark.parametrize(
    ("about", "licence", "line"),
    [
        ({"encoder": "minilm-l6", "trained": []}, "apache-2.0", "| encoder minilm-l6 | apache-2.0 |"),
        ({"encoder": "minilm-l6", "tasks": ["quora"]}, "other", "| data of quora | Quora question pairs: for non-comm"),
        ({"encoder": "someone/bert", "tasks": ["sst"]}, "other", "| encoder someone/bert | not known"),
        ({}, "other", "| encoder not known | not known"),
    ],
)
def test_licences_are_said_as_far_as_they_are_known(about: dict[str, Any], licence: str, line: str) -> None:
    text = model_card(with_about(**about), "onnx", Provenance(), ".")
    assert hub.ModelCard(text).data.license == licence and line in text


def test_heads_that_nothing_trained_are_named() -> None:
    text = model_card(with_about(trained=["sst", "sts"]), "transformers", Provenance(), ".")
    assert "nothing trained them: cfimdb, jobs, moods, quora, skills, suitability." in text


def test_an_undefined_metric_stays_out_of_the_hubs_index() -> None:
    outcome = {"metrics": {"sts/pearson": None}, "why": {"sts/pearson": "constant"}, "intervals": {}}
    text = model_card(bundle_with({"sts": "cosine"}), "transformers", Provenance(outcome), ".")
    assert hub.ModelCard(text).data.eval_results is None and "| sts/pearson | undefined: constant |" in text


@pytest.mark.parametrize("form", [pytest.param(f, marks=[pytest.mark.slow] * (f == "onnx")) for f in FORMATS])
def test_the_cards_code_runs(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(form, (FORMATS[form].library or form).replace("-", "_")))
    save_bundle(Storage(str(tmp_path / "pairs")), "", bundle_with({"skills": "linear"}, "pooler"))
    folder = exported(str(tmp_path / "pairs") if FORMATS[form].one_head else "tiny", form, tmp_path / "out")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec((folder / "README.md").read_text().split("```python\n")[1].split("```")[0], names)
    assert len(names[{"transformers": "states", "cross-encoder": "scores"}.get(form, "vectors")]) == 2


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: "hf_secret")


class FakeApi:
    """The hub, for three calls."""

    endpoint = "https://hub"
    made: dict[str, Any]

    def __init__(self) -> None:
        FakeApi.made = {}

    def whoami(self) -> dict[str, str]:
        return {"name": "me"}

    def create_repo(self, name: str, **options: Any) -> Any:
        FakeApi.made |= options
        return type("Url", (str,), {"repo_id": f"me/{name}"})(f"https://hub/me/{name}")

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> None:
        FakeApi.made |= {repo_id: sorted(path.name for path in Path(folder_path).iterdir())}


def test_a_push_makes_a_private_repository_of_the_whole_folder(
    token: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    export_bundle("tiny", "transformers", str(tmp_path / "out"), "float32", "mine", Screen())
    assert FakeApi.made["private"] is True and FakeApi.made["exist_ok"] is True
    assert FakeApi.made["me/mine"] == sorted(path.name for path in (tmp_path / "out").iterdir())
    said = capsys.readouterr().out
    assert "pushed: https://hub/me/mine" in said and "hf_secret" not in said


def test_a_push_that_fails_leaves_what_was_written(
    token: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FakeApi, **options: Any) -> None:
        raise OSError("507: no room\nand more")

    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "upload_folder", full)
    with pytest.raises(UserError, match="--push 'mine': https://hub did not take it: OSError: 507: no room; it needs"):
        export_bundle("tiny", "transformers", str(tmp_path / "out"), "float32", "mine", Screen())
    assert imported(tmp_path / "out", tmp_path / "back").pooling == "mean"


def test_without_a_token_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="--push 'me/mine': no token: set HF_TOKEN"):
        export_bundle("tiny", "transformers", str(tmp_path / "out"), "float32", "me/mine", Screen())
    assert not list(tmp_path.iterdir())


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where someone listens and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def refusing() -> int:
    """A port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.parametrize("port", ["silent", "refusing"])
def test_a_hub_that_does_not_answer_is_not_waited_for(
    token: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, port: str
) -> None:
    endpoint, api = f"http://127.0.0.1:{request.getfixturevalue(port)}", hub.HfApi
    monkeypatch.setattr(hub, "HfApi", lambda: api(endpoint=endpoint, token="hf_secret"))
    monkeypatch.setattr(ours, "SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(UserError, match=f"--push 'me/mine': {endpoint} did not take it: ") as caught:
        export_bundle("tiny", "transformers", str(tmp_path / "out"), "float32", "me/mine", Screen())
    assert time.monotonic() - began < 15 and "hf_secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
