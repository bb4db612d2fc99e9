"""`minibert average`: the mean of bundles' weights, and what has no mean."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from multitask.bundle.average import averaged
from multitask.bundle.bundle import Bundle, bundle_of, read_bundle, save_bundle
from multitask.bundle.found import Found
from multitask.errors import UserError
from multitask.export import provenance
from multitask.storage.storage import Storage
from multitask.tasks.own import known
from ray_jobs.cli import app
from tests.helpers import tiny

HEADS = {"sst": "mlp", "sts": "cosine"}
LAST = sorted(name for name in tiny().model(HEADS).state_dict() if name.startswith("heads.sst"))[-1]


def member(seed: int, heads: dict[str, str] = HEADS, **about: Any) -> Bundle:
    """A bundle whose weights all differ with its seed."""
    model = tiny().model(heads, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=generator)
    return bundle_of(model, tiny().tokenizer_json, {"trained": ["sst"], "trainer": f"T{seed}", "recipe": "r", **about})


def mean_of(*bundles: Bundle) -> Bundle:
    return averaged((f"b{at}", Found(bundle, str(at))) for at, bundle in enumerate(bundles))


def test_the_mean_is_that_of_torch_in_float64() -> None:
    members = [member(seed) for seed in (1, 2, 3)]
    found = mean_of(*members)
    assert found.tensors.keys() == members[0].tensors.keys()
    for name, value in found.tensors.items():
        exact = torch.stack([one.tensors[name].double() for one in members]).mean(dim=0)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact, rtol=0, atol=1e-7 * float(exact.abs().max()))


def test_equal_weights_are_their_own_mean_and_none_of_the_members_is_changed() -> None:
    one = member(1)
    before = {name: value.clone() for name, value in one.tensors.items()}
    found = mean_of(one, replace(one, about=dict(one.about)), one)
    assert all(torch.equal(value, before[name]) for name, value in found.tensors.items())
    assert all(torch.equal(value, before[name]) for name, value in one.tensors.items())


def test_it_says_of_itself_what_all_members_say() -> None:
    found = mean_of(member(1, notes={"sst": "n"}), member(2, trained=["sst", "sts"], notes={"sst": "n"}, recipe="q"))
    assert found.about["notes"] == {"sst": "n"} and found.about["trained"] == ["sst"]
    assert not {"trainer", "recipe"} & found.about.keys()
    assert [one["bundle"] for one in found.about["average_of"]] == ["b0", "b1"]


def test_it_says_which_rows_any_member_was_fitted_to() -> None:
    fitted = [{"sst": ["a"]}, {}, {"sst": ["a", "b"], "sts": ["c"]}]
    for order in (fitted, fitted[::-1]):
        members = (member(seed, **({"fitted_on": on} if on else {})) for seed, on in enumerate(order))
        assert {task: sorted(on) for task, on in mean_of(*members).about["fitted_on"].items()} == {
            "sst": ["a", "b"],
            "sts": ["c"],
        }
    assert "fitted_on" not in mean_of(member(1), member(2)).about


def toned(words: str, seed: int) -> Bundle:
    """A bundle of an own task of five classes, called by those letters."""
    own = known({"tone": {"columns": ["sentence"], "label": {"words": list(words)}}}, "test")
    model = replace(tiny(), specs=own).model({"tone": "linear"}, seed=seed)
    return bundle_of(model, tiny().tokenizer_json, {})


def test_classes_of_other_names_are_another_task() -> None:
    with pytest.raises(UserError, match=r"specs.tone is \{"):
        mean_of(toned("abcde", 1), toned("edcba", 2))
    assert mean_of(toned("abcde", 1), toned("abcde", 2)).specs["tone"].label.words == tuple("abcde")


DIFFERENT = {
    "shape": (replace(member(2), tensors={**member(2).tensors, LAST: torch.zeros(2, 64)}),
              f"{LAST} is (2, 64), not"),
    "another head": (member(2, {"sst": "linear", "sts": "cosine"}), "heads.sst."),
    "no such head": (member(2, {"sst": "mlp"}), "heads.sts is none, not cosine"),
    "config": (replace(member(2), config=replace(tiny().config, layer_norm_eps=1e-5)), "config.layer_norm_eps is"),
    "pooling": (replace(member(2), pooling="cls"), "pooling is cls, not mean"),
    "tokenizer": (replace(member(2), tokenizer_json="{}"), "another tokenizer"),
    "max_length": (member(2, max_length=32), "max_length is 32, not"),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
def test_members_that_do_not_agree_are_refused_in_a_line(what: str) -> None:
    other, said = DIFFERENT[what]
    with pytest.raises(UserError, match=r"average: 'b1' beside 'b0': ") as error:
        mean_of(member(1), other)
    assert said in str(error.value), str(error.value)


def test_one_bundle_alone_and_one_named_twice_are_refused() -> None:
    with pytest.raises(UserError, match="one bundle is its own mean"):
        mean_of(member(1))
    with pytest.raises(UserError, match="'c': the same as 'b'"):
        averaged([("b", Found(member(1), "x")), ("c", Found(member(1), "x"))])


def test_where_the_files_are_is_known_where_all_experiments_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(dev: str) -> dict[str, Any]:
        return {"source": {"dev": f"{dev}.csv"}, "fingerprint": {"dev": dev}, "rows_used": {"dev": 9}}

    known_of = {"a": {"sst": facts("x"), "sts": facts("y")}, "b": {"sst": facts("x"), "sts": facts("z")}, "c": {}}
    monkeypatch.setattr(provenance, "provenance_of", lambda uri: provenance.Provenance(data=known_of[uri]))
    expected = {"sst": {"source": {"dev": "x.csv"}, "fingerprint": {"dev": "x"}}}
    assert provenance.shared_data(["a", "b", "c"]) == expected


def test_of_several_training_files_all_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(train: str) -> dict[str, Any]:
        source = {"train": f"{train}.csv", "dev": "dev.csv"}
        return {"sst": {"source": source, "fingerprint": {"train": train, "dev": "d"}}}

    known_of = {"a": facts("x"), "b": facts("y"), "c": facts("x")}
    monkeypatch.setattr(provenance, "provenance_of", lambda uri: provenance.Provenance(data=known_of[uri]))
    found = provenance.shared_data(["a", "b", "c"])
    assert found == {"sst": {"source": {"train": "x.csv, y.csv", "dev": "dev.csv"}, "fingerprint": {"dev": "d"}}}
    assert provenance.shared_data(["a", "c"]) == known_of["a"]


def test_the_command_writes_a_bundle(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_bundle(Storage(str(tmp_path)), f"b{seed}", member(seed))
    paths = [str(tmp_path / f"b{seed}") for seed in (1, 2)]
    words = ["average", *paths, "--output", str(tmp_path / "soup")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = read_bundle(Storage(str(tmp_path / "soup")))
    assert torch.equal(found.tensors[LAST], mean_of(member(1), member(2)).tensors[LAST])
    told = json.loads((tmp_path / "soup" / "model.json").read_text())["about"]["average_of"]
    assert [one["bundle"] for one in told] == paths
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, UserError) and "name a directory that is not there yet" in str(again.exception)
