"""What fails inside a user's own code is told with its name and line, and is the user's to mend."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from multitask.errors import UserError
from multitask.tasks import imported
from multitask.tasks.faults import OwnCodeError, fault_of, own_faults
from multitask.tasks.imported import trust
from tests.helpers import recipe_tree
from tests.integration.test_experiment import minibert
from tests.own_modules import own_modules

FAILING = """
import torch
import torch.distributed
from torch import nn
from pytorch_lightning.callbacks import Callback

def loss(outputs, labels, weights):
    return _divided(weights.sum()), weights.sum()

def _divided(weight):
    return 1 / 0

class Head(nn.Module):
    uses_tokens = False

    def __init__(self, hidden_size, spec):
        super().__init__()
        self.out = nn.Linear(3, spec.label.outputs)

    def forward(self, first, second):
        return self.out(first.sentence)

class Calling(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        raise KeyError("a\\nb")

def far(predictions, labels):
    return predictions[10**6]

far.lower_is_better = True

def raising(error):
    raise error

def waiting():
    torch.distributed.get_rank(group=torch.distributed.group.WORLD)
    torch.distributed.all_reduce(torch.ones(1))

anonymous = lambda: {}["key"]
other = lambda: {}["key"]
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module failing_own in the working directory."""
    with own_modules(tmp_path, monkeypatch, failing_own=FAILING) as folder:
        yield folder


def line_of(text: str) -> int:
    return FAILING.splitlines().index(text) + 1


def taken(*names: str) -> list[Callable[..., Any]]:
    trust(["failing_own:loss"])
    return [imported.imported(f"failing_own:{name}") for name in names]


def caught(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as found:
        call()
    return found.value


@pytest.mark.parametrize(
    ("task", "stage", "said", "source"),
    [
        ({"loss": "failing_own:loss"}, {}, "loss: ZeroDivisionError: division by zero", "    return 1 / 0"),
        ({"head": "failing_own:Head"}, {}, "Head: RuntimeError: .*shapes.*", "        return self.out(first.sentence)"),
        ({}, {"callbacks": ["failing_own:Calling"]}, "Calling: KeyError: .*", '        raise KeyError("a\\nb")'),
        ({"measures": ["failing_own:far"]}, {}, "far: IndexError: index 1000000 .*", "    return predictions[10**6]"),
    ],
)  # fmt: skip
def test_training_ends_in_one_line_with_status_2(
    task: dict[str, Any], stage: dict[str, Any], said: str, source: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = recipe_tree(tasks=["sts"], epochs=1, **stage)
    tree["tasks"]["sts"] |= task
    (own / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert minibert("train", "recipe.yaml", "--storage", "runs", "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"minibert: failing_own:{said}, at failing_own.py:{line_of(source)}", line), line
    (log,) = (own / "runs/small/logs").iterdir()
    assert "Traceback" in log.read_text() and "failing_own.py" in log.read_text()


def test_who_opens_a_bundle_is_told_too(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    working = FAILING.replace("nn.Linear(3, ", "nn.Linear(hidden_size, ").replace(
        "return self.out(first.sentence)", "return self.out(first.sentence).squeeze(-1)"
    )
    (own / "failing_own.py").write_text(working)
    tree = recipe_tree(tasks=["sts"], epochs=1)
    tree["tasks"]["sts"] |= {"head": "failing_own:Head"}
    (own / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert minibert("train", "recipe.yaml", "--storage", "runs", "--quiet") == 0
    (own / "failing_own.py").write_text(working.replace(".squeeze(-1)", ".squeeze(7)"))
    assert minibert("evaluate", "runs/small/para") == 2
    assert "minibert: failing_own:Head: IndexError: Dimension out of range" in capsys.readouterr().err


def test_what_may_pass_or_is_said_already_is_left_as_it_is() -> None:
    (raising,) = taken("raising")
    for error in (ConnectionResetError("gone"), torch.OutOfMemoryError("none left"), UserError("said"), TimeoutError()):
        assert fault_of(caught(lambda error=error: raising(error))) is None
    (waiting,) = taken("waiting")
    assert fault_of(caught(waiting)) is None, "another rank is gone, say"
    assert fault_of(caught(lambda: [][0])) is None, "no code of the user's"
    with pytest.raises(KeyboardInterrupt), own_faults():
        raise KeyboardInterrupt


def test_the_error_itself_stays_the_cause() -> None:
    (raising,) = taken("raising")
    with (
        pytest.raises(OwnCodeError, match=r"^failing_own:raising: ValueError: bad, at failing_own.py:\d+$") as found,
        own_faults(),
    ):
        raising(ValueError("bad"))
    assert isinstance(found.value.__cause__, ValueError)


def test_where_the_name_cannot_be_told_the_module_is() -> None:
    anonymous, _ = taken("anonymous", "other")
    assert (fault_of(caught(anonymous)) or "").startswith("failing_own: KeyError: 'key', at failing_own.py:")


def test_a_line_is_not_endless() -> None:
    (raising,) = taken("raising")
    assert len(fault_of(caught(lambda: raising(ValueError("very " * 1000)))) or "") < 600
