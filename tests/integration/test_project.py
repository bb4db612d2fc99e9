"""`minibert new`: the folder that it makes trains at once, by the commands of its own README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.integration.test_experiment import minibert


def test_a_new_project_does_what_its_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert minibert("new", "my-tones") == 0
    assert capsys.readouterr().out.splitlines() == [
        "my-tones: README.md, data, recipe.yaml",
        "next: cd my-tones && minibert train recipe.yaml",
    ]
    monkeypatch.chdir(tmp_path / "my-tones")
    readme = Path("README.md").read_text()
    assert readme.startswith("# my-tones\n") and "NAME" not in readme + Path("recipe.yaml").read_text()
    commands, code = (re.search(rf"```{kind}\n(.*?)```", readme, re.DOTALL)[1] for kind in ("sh", "python"))  # type: ignore[index]
    for line in commands.splitlines():
        command, *words = shlex.split(line, comments=True)
        assert command == "minibert" and minibert(*words) == 0, line
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "tone/f1_macro" in said and "tone, taken for" in said and "('negative', 'neutral', 'positive')" in said
    assert sorted(found.name for found in tmp_path.iterdir()) == ["my-tones"]
    assert sorted(found.name for found in Path().iterdir()) == ["README.md", "data", "recipe.yaml", "runs"]


@pytest.mark.parametrize(
    ("folder", "said"), [("there", "is there already"), ("a b", "the folder's name is the recipe's")]
)
def test_a_folder_that_cannot_be_made_is_one_line(
    folder: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert minibert("new", folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"minibert: new '{folder}': ") and said in line
