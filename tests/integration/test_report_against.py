"""`minibert report A --against B` of two small experiments that were trained: the numbers are those of `evaluate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.stopping import StopRequest
from tests.helpers import small_driver
from tests.integration.test_experiment import minibert

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    for name, lr in (("a", 1e-3), ("b", 3e-2)):
        small_driver(folder, name, lr=lr).run(StopRequest("again"))
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert minibert(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_it_says_what_evaluate_says_of_both_bundles(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(storage / "a"), str(storage / "b")
    found = told(capsys, "report", b, "--against", a)["against"]
    evaluated = {row["metric"]: row for row in told(capsys, "evaluate", f"{a}/para", f"{b}/para")["comparisons"]}
    assert evaluated and [row["metric"] for row in found["scores"] if row["p"] is not None] == [*evaluated]
    for row in found["scores"]:
        if row["p"] is not None:
            keys = ("baseline", "value", "difference", "interval", "p", "p_holm", "sides", "rows")
            assert {key: row[key] for key in keys} == {key: evaluated[row["metric"]][key] for key in keys}
    assert found["settings"] == {"stages.para.lr": [0.001, 0.03]}
    results = json.loads((storage / "b" / "results.json").read_text())["stages"][-1]
    for row in found["scores"]:
        assert row["value"] == pytest.approx(results["metrics"][row["metric"]], abs=1e-6), "as it was measured"
    assert "## Against a" in (storage / "b" / "report.md").read_text()


def test_a_bundle_that_is_damaged_has_values_and_no_intervals(storage: Path, tmp_path: Path) -> None:
    for name in "ab":
        shutil.copytree(storage / name, tmp_path / name)
    weights = next((tmp_path / "a").glob("Torch*/bundle/weights.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert minibert("report", str(tmp_path / "b"), "--against", str(tmp_path / "a"), "-q") == 0
    text = (tmp_path / "b" / "report.md").read_text()
    assert "No intervals of para, seed 11711" in text and "damaged" in text


def test_quiet_leaves_out_the_progress(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert minibert("report", str(storage / "b"), "--against", str(storage / "a"), "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["report", "report", "cost"]


def test_against_itself_is_one_line(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert minibert("report", str(storage / "a"), "--against", f"{storage}/./a/") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("/a': the experiment itself; name another one")
