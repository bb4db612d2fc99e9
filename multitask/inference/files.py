"""What a bundle, or each member of an ensemble, puts out for the rows of tasks' files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer
from torch import Tensor

from multitask.bundle.bundle import Bundle
from multitask.bundle.ensemble import Answering
from multitask.data.progress import Done
from multitask.data.tokens import TokenTable, cache_tokens, load_tokens
from multitask.errors import UserError
from multitask.inference.embed import default_device
from multitask.measure.ensembles import mixed
from multitask.measure.evaluate import EvalSet, head_outputs, predicted_of
from multitask.measure.metrics import Predicted
from multitask.recipe.data_maps import Place
from multitask.storage.storage import Storage
from multitask.tasks.table import Split, TaskSpec

MAX_BAD_ROWS = 0.01
Tell = Callable[[str, int], Done]  # what is computed, and of how many rows -> its progress


@dataclass
class FileOutputs:
    """What was computed for a task's file.

    table: its rows, as the first member that answers them has their tokens. members: the numbers of those members.
    outputs: what the head of each puts out, (N, *shape).
    """

    spec: TaskSpec
    split: Split
    table: TokenTable
    members: list[int] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def mine(self, shares: Sequence[float]) -> list[float]:
        """How much each of its members counts. shares: of each member of the whole ensemble."""
        return [shares[at] for at in self.members]

    def together(self, shares: Sequence[float]) -> Tensor:
        """(N, *shape) what they put out together. shares: how much each member of the whole ensemble counts."""
        alone = len(self.outputs) == 1
        return self.outputs[0] if alone else mixed(self.outputs, self.mine(shares), self.spec.label)

    def predicted(self, shares: Sequence[float]) -> Predicted:
        """What they say together. shares: how much each member of the whole ensemble counts."""
        return predicted_of(self.together(shares), self.spec.label)


def file_outputs(
    model: Answering,
    place: Place,
    splits: Sequence[Split],
    labelled: Collection[Split],
    cache: Storage,
    tell: Tell,
    tasks: Collection[str] | None = None,
) -> list[FileOutputs]:
    """What the members say of every split that the place has, in the order of tasks and splits.

    Members are read and asked one after the other, and only their outputs are kept. labelled: the splits whose labels
    are read. cache: where tokens are put meanwhile. tasks: those that are wanted; None is all. Raises UserError where
    the place has none of the splits.
    """
    specs = [model.specs[task] for task in model.tasks if tasks is None or task in tasks]
    wanted = [(spec, split) for spec in specs for split in splits if place.has(spec, split)]
    if not wanted:
        place.find(specs[0], splits[0])  # says what is there instead
    device, found = default_device(), dict[tuple[str, Split], FileOutputs]()
    for number, bundle in enumerate(model.members):
        asked = [(bundle.specs[spec.name], split) for spec, split in wanted if model.shares(spec.name)[number]]
        net = bundle.model().to(device)
        for spec, split in asked:
            table = _table(bundle, cache, place, spec, split, split in labelled)
            done = tell(f"{spec.name} {split}", len(table))
            data = EvalSet.of(spec.name, table, device.type)
            outputs = head_outputs(net, data, device=device, progress=done)
            _add(found.setdefault((spec.name, split), FileOutputs(spec, split, table)), number, table, outputs)
    return [found[spec.name, split] for spec, split in wanted]


def _add(into: FileOutputs, number: int, table: TokenTable, outputs: Tensor) -> None:
    if list(table.ids) != list(into.table.ids):
        raise UserError(
            f"{table.source}: {len(table)} rows are usable for member {number}, {len(into.table)} for another; "
            f"`minibert data check` lists the others"
        )
    into.members.append(number)
    into.outputs.append(outputs)


def _table(bundle: Bundle, cache: Storage, place: Place, spec: TaskSpec, split: Split, labelled: bool) -> TokenTable:
    path = cache_tokens(
        cache,
        place.find(spec, split),
        spec,
        Tokenizer.from_str(bundle.tokenizer_json),
        labelled=labelled,
        max_length=bundle.max_length,
        max_bad_rows=bundle.about.get("max_bad_rows", MAX_BAD_ROWS),
        columns=place.columns(spec.name, bundle.about.get("columns", {}).get(spec.name, {})),
    )
    return load_tokens(cache, path)
