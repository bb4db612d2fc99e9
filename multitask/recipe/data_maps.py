"""Where tasks' files lie: in a directory under their own names, or where a data map, a YAML file, says.

A map is a recipe's `tasks:` in a file of its own; paths in it are relative to its folder. A recipe that names its files
is a map too; its paths are relative to the working directory, as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.data.file_parts import Part
from multitask.data.files import expanded, find_file, has_data_ending, has_file, local
from multitask.data.sample import sample_uri
from multitask.errors import UserError, near
from multitask.recipe.packaged import packaged, packaged_maps
from multitask.recipe.parsing import parse_yaml
from multitask.recipe.settings import Task
from multitask.storage.uris import join
from multitask.tasks.table import TASKS, Split, TaskSpec

if TYPE_CHECKING:  # recipes come with torch, which a data directory is read without
    from multitask.recipe.stages import Recipe

FOLDER = "data"  # of configs/
ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Place:
    """Where tasks' files lie: where `tasks` says, else in `directory` under their own names."""

    uri: str
    """What the user named."""
    tasks: Mapping[str, Task]
    """Task -> its files, for tasks whose files are named."""
    directory: str
    """A directory or its URI; "" where there is none."""

    def has(self, spec: TaskSpec, split: Split) -> bool:
        """Whether `find` would look for a file of the task and split."""
        return self.named(spec, split) or bool(
            self.directory and has_file(self.directory, spec, self._of(spec, split)[0])
        )

    def named(self, spec: TaskSpec, split: Split) -> bool:
        """Whether `tasks` says where the file of the task and split lies."""
        return bool(spec.name in self.tasks and self.tasks[spec.name].files(split))

    def find(self, spec: TaskSpec, split: Split) -> list[str]:
        """The URIs of the task's files for that split, with the part that is meant behind them (data/file_parts.py)
        where it is not all. Raises UserError where nothing says which, or none is there."""
        source, part = self._of(spec, split)
        if self.named(spec, split):
            files = self.tasks[spec.name].files(split)
            return [f"{uri}{_mark(part, share)}" for path, share in files for uri in expanded(path)]
        if not self.directory:
            raise UserError(f"tasks.{spec.name}.{split}: {self.uri} names no file, and neither does the recipe")
        return [f"{find_file(self.directory, spec, source)}{_mark(part)}"]

    def _of(self, spec: TaskSpec, split: Split) -> tuple[Split, Part | None]:
        """The split whose file is read, and which part of it is meant."""
        part = self.tasks[spec.name].part(split) if spec.name in self.tasks else None
        return ("train" if part else split), part

    def columns(self, name: str, otherwise: Mapping[str, str | int]) -> Mapping[str, str | int]:
        """The task's column -> the files', as `tasks` says where it names the task."""
        return self.tasks[name].columns if name in self.tasks else otherwise

    def weight(self, name: str) -> str | None:
        """The column of a task's training file that says what rows count for; None where all count alike."""
        return self.tasks[name].weight if name in self.tasks else None

    def specs(self) -> dict[str, TaskSpec]:
        """The tasks of a map; for a directory those that are built in."""
        return {name: task.spec(name) for name, task in self.tasks.items()} or TASKS


def _mark(part: Part | None, share: float = 1.0) -> str:
    """What stands behind the URI of a file of which some rows are meant."""
    if share < 1:
        return replace(part or Part(), share=share).mark
    return part.mark if part else ""


def place_of(data: str) -> Place:
    """What `--data` names: a directory or its URI, a map, or a packaged map's name. Raises UserError for one file of
    rows."""
    _refuse_file(data)
    return Place(data, read_map(data), "") if is_map(data) else Place(data, {}, data)


def place_of_recipe(recipe: Recipe, data: str | None) -> Place:
    """Where the files of a recipe's tasks lie: where it says itself, else where `--data` does. Raises UserError where
    neither does."""
    return Place(data or f"recipe '{recipe.name}'", recipe.tasks, _directory(recipe, data))


def _directory(recipe: Recipe, data: str | None) -> str:
    """The directory of the tasks' files; "" where a map or the recipe itself names each file.

    Raises UserError where neither --data nor the recipe says where they are.
    """
    if data:
        _refuse_file(data)
        return "" if is_map(data) else data
    if recipe.data == "sample":
        return sample_uri()
    if all(task.train and task.files("dev") for task in recipe.tasks.values()):
        return ""
    for name, task in recipe.tasks.items():
        if task.train and not task.files("dev"):
            ways = "dev: FILE, or split: {dev: 0.2}, which makes it of a part"
            raise UserError(f"tasks.{name}: train: names a file and nothing says what dev is; {ways}")
    raise UserError(f"recipe '{recipe.name}': no data; give --data URI, a directory with the tasks' files, or a map")


def _refuse_file(data: str) -> None:
    """Raises UserError where `--data` names one file of rows, which says nothing of its task."""
    path = Path(data)
    if not path.is_dir() and (has_data_ending(data) or (path.is_file() and not is_map(data))):
        raise UserError(
            f"'{data}': a data file; valid: a directory with the tasks' files, or a map, a .yaml whose tasks "
            f"name them, such as tasks: {{mine: {{define: ..., train: {data}}}}}; minibert new FOLDER makes one"
        )


def is_map(data: str) -> bool:
    """Whether `data` names a map and no directory; a directory that has a packaged map's name goes first."""
    if data.lower().endswith(ENDINGS):
        return True
    return "/" not in data and not Path(data).exists() and packaged(data, FOLDER) is not None


def mapped(data: str | None) -> dict[str, Any]:
    """Task -> what a map says of it, to go under a recipe's own words; nothing where `data` is a directory."""
    if not data or not is_map(data):
        return {}
    return {name: task.model_dump(exclude_unset=True) for name, task in read_map(data).items()}


def read_map(uri: str) -> dict[str, Task]:
    """The tasks of a map at any URI, paths made absolute. Raises UserError with the YAML path."""
    found = None
    if "://" not in uri and not Path(uri).is_file() and (found := packaged(uri, FOLDER)) is None:
        known = packaged_maps()
        meant = near(Path(uri).stem, known)
        raise UserError(f"data map '{uri}': no such file; packaged maps: {', '.join(known)}{meant}")
    with local(str(found or uri)) as file:
        try:
            tree = parse_yaml(file.read_text(encoding="utf-8"), uri)
        except UnicodeDecodeError as error:
            raise UserError(f"data map '{uri}': not a text file: {error}") from error
    from multitask.recipe.checks import build_map  # with torch, which a data directory is read without

    tasks = build_map(tree, uri)
    if "stages" in tree:
        return tasks
    return {name: _placed(task, uri.rpartition("/")[0] or ".") for name, task in tasks.items()}


def _placed(task: Task, folder: str) -> Task:
    named = {split: getattr(task, split) for split in ("train", "dev", "test") if getattr(task, split)}
    return task.model_copy(update={split: _files_below(folder, files) for split, files in named.items()})


def _files_below(folder: str, files: Any) -> Any:
    if isinstance(files, Mapping):
        return {_below(folder, path): share for path, share in files.items()}
    return _below(folder, files) if isinstance(files, str) else [_below(folder, path) for path in files]


def _below(folder: str, path: str) -> str:
    return path if "://" in path or Path(path).expanduser().is_absolute() else join(folder, path)
