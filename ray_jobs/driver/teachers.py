"""Teachers of a recipe's tasks: checked, and put into the storage with the training texts as they read them, before any
stage starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokenizers import Tokenizer

from multitask.bundle.bundle import Bundle, read_bundle
from multitask.bundle.ensemble import Answering, Ensemble
from multitask.bundle.found import Found
from multitask.data.files import expanded
from multitask.data.progress import Tell, told, untold
from multitask.data.tokens import cache_tokens, load_tokens
from multitask.errors import UserError
from multitask.experiment.finding import open_answering
from multitask.experiment.stage_job import JobTeacher
from multitask.experiment.teachers import read_as
from multitask.inference.predict import require
from multitask.model.heads import HEADS
from multitask.objectives.distillation import Teacher
from multitask.recipe.data_maps import Place, place_of_recipe
from multitask.recipe.stages import Recipe, Stage
from multitask.storage.storage import Storage
from multitask.tasks.table import TaskSpec
from ray_jobs.driver.prepare import Lesson, Prepared, located, stored

CONTENT = {"weight", "temperature", "embeddings"}  # of a Teacher; its bundle and texts are known by their content


def with_lessons(
    recipe: Recipe, data: str | None, storage: Storage, prepared: Prepared, tell: Tell = untold
) -> Prepared:
    """What was prepared, with the teachers of all stages. tell: as `prepare` has it. Raises UserError for one that
    cannot teach its task."""
    if not any(stage.teachers for stage in recipe.stages):
        return prepared
    place = place_of_recipe(recipe, data)
    found: dict[str, dict[str, Lesson]] = {}
    for stage in recipe.stages:
        lessons = {task: _lesson(recipe, stage, task, storage, prepared, place, tell) for task in stage.teachers}
        found[stage.name] = lessons
    return replace(prepared, lessons=found)


def _lesson(
    recipe: Recipe, stage: Stage, task: str, storage: Storage, prepared: Prepared, place: Place, tell: Tell
) -> Lesson:
    teacher, spec, at = stage.teachers[task], recipe.specs[task], f"stages.{stage.name}.teachers.{task}"
    opened = _opened(storage, teacher, spec, f"{at}.bundle")
    if teacher.embeddings:
        _check_encodings(recipe, stage, task, storage, prepared, opened.bundle, at)
    texts = [teacher.unlabelled] if isinstance(teacher.unlabelled, str) else teacher.unlabelled or []
    unlabelled = [uri for path in texts for uri in expanded(path)]

    def tokens(read: TaskSpec, tokenizer_json: str, max_length: int) -> str:
        return cache_tokens(
            storage,
            place.find(spec, "train"),
            read,
            Tokenizer.from_str(tokenizer_json),
            labelled=True,
            max_length=max_length,
            columns=recipe.tasks[task].columns,
            max_bad_rows=recipe.max_bad_rows,
            unlabelled=unlabelled,
            weight=recipe.tasks[task].weight,
            progress=told(tell, f"{task} for its teacher"),
        )

    members = [
        JobTeacher(
            stored(storage, member, fingerprint).path,
            fingerprint,
            tokens(read_as(spec, member, teacher), member.tokenizer_json, member.max_length),
            share,
        )
        for member, fingerprint, share in _members(opened, task)
    ]
    train = tokens(spec, prepared.start.tokenizer_json, recipe.max_length)
    content = {"bundle": opened.fingerprint, **teacher.model_dump(mode="json", include=CONTENT)}
    return Lesson(members, train, content | ({"unlabelled": load_tokens(storage, train).sha256} if unlabelled else {}))


def _members(found: Found[Answering], task: str) -> Iterator[tuple[Bundle, str, float]]:
    """The bundles that answer the task, each with its fingerprint and how much it counts; one is in memory at a
    time."""
    model = found.bundle
    fingerprints = model.fingerprints if isinstance(model, Ensemble) else (found.fingerprint,)
    for number, (fingerprint, share) in enumerate(zip(fingerprints, model.shares(task), strict=True)):
        if share:
            yield model.members[number], fingerprint, share


def _opened(storage: Storage, teacher: Teacher, spec: TaskSpec, at: str) -> Found[Answering]:
    """The teacher's bundle, or ensemble. Raises UserError where it has no trained head for the task, unless its
    encodings are all that is wanted, which an ensemble has none of, and where its label is another."""
    place = located(storage, teacher.bundle, at)
    try:
        found = open_answering(place)
    except UserError as error:
        raise type(error)(f"{at}: {error}") from error
    if teacher.embeddings:
        if isinstance(found.bundle, Ensemble):
            raise UserError(
                f"{at}: '{teacher.bundle}': an ensemble, whose members have encoders of their own; name one of them, "
                f"or leave embeddings out"
            )
        return found
    try:
        require(found.bundle, spec.name)
    except UserError as error:
        raise UserError(f"{at}: '{teacher.bundle}': {error}") from error
    check_task(found.bundle.specs[spec.name], spec, f"{at}: '{teacher.bundle}'")
    return found


def check_task(theirs: TaskSpec, spec: TaskSpec, at: str) -> None:
    """Raises UserError unless outputs for the teacher's task mean what those for the student's, `spec`, do."""
    if len(theirs.columns) != len(spec.columns):
        raise UserError(
            f"{at}: its task {spec.name} has the texts {', '.join(theirs.columns)}, "
            f"this recipe's {', '.join(spec.columns)}; as many are needed"
        )
    if theirs.label.meaning != spec.label.meaning:
        raise UserError(
            f"{at}: its task {spec.name} answers {theirs.label.meaning}, this recipe's "
            f"{spec.label.meaning}; a teacher's label has the same kind, and the same words or bounds"
        )


def _check_encodings(
    recipe: Recipe, stage: Stage, task: str, storage: Storage, prepared: Prepared, teacher: Answering, at: str
) -> None:
    """Raises UserError where the student's sentence encodings cannot be compared with the teacher's."""
    assert isinstance(teacher, Bundle)
    root, name = recipe.root(stage), stage.teachers[task].bundle
    start = prepared.start if root == "encoder" else prepared.bundles[root]
    theirs, ours = teacher.config.hidden_size, read_bundle(storage, start.path).config.hidden_size
    if theirs != ours:
        raise UserError(f"{at}.embeddings: '{name}' has encodings of {theirs} numbers, the stage's model of {ours}")
    head = recipe.heads(stage, prepared.heads())[task]
    if HEADS[head].build(ours, recipe.specs[task]).uses_tokens:
        raise UserError(
            f"{at}.embeddings: the head '{head}' reads tokens' states and no sentence encoding; leave embeddings out"
        )
