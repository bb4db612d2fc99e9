"""`make gpu-check`: what it says without a GPU, and its parts on the CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import __main__ as gpu


def test_without_a_gpu_it_ends_with_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 3
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and "torch sees no GPU" in said.err


@pytest.mark.slow
def test_its_parts_hold_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("| held |") for line in lines) == 8
    assert not any("not held" in line for line in lines)


def test_what_does_not_hold_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for held, status in ((True, 0), (None, 0), (False, 1)):
        monkeypatch.setitem(gpu.PARTS, "ranks", lambda at, held=held: iter([gpu.Line("a", "1", "2", held)]))
        assert gpu.main(["--device", "cpu", "--quick", "ranks"]) == status
        assert "| a | 1 | 2 |" in capsys.readouterr().out
