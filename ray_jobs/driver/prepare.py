"""Everything that can be checked and made before a stage starts: files read, tokens cached, the encoder stored."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from multitask.bundle.bundle import ENCODERS, ENSEMBLE, Bundle, bundle_fingerprint, read_bundle, save_bundle
from multitask.bundle.found import found_at
from multitask.data.progress import Tell, told, untold
from multitask.data.samplers import training_rows
from multitask.data.scales import scale_note
from multitask.data.tokens import TokenTable, cache_tokens, load_tokens
from multitask.errors import UserError
from multitask.experiment.fence import EXPERIMENT_FILE
from multitask.experiment.finding import find_bundle
from multitask.experiment.stage_job import JobTeacher, digest
from multitask.model.heads import heads_for
from multitask.model.layout import MODES
from multitask.model.sources import SOURCES
from multitask.model.weights import has_pooler
from multitask.recipe.checks import check_heads, check_layers
from multitask.recipe.data_maps import Place, is_map, place_of_recipe
from multitask.recipe.stages import NAME, Recipe
from multitask.storage.sealed import Damaged, is_sealed, read_sealed
from multitask.storage.storage import MANIFEST, Storage
from multitask.storage.uris import absolute, join
from multitask.tasks.own import definition_of
from multitask.tasks.table import Split, TaskSpec

log = logging.getLogger(__name__)

MODELS = (MANIFEST, ENSEMBLE, "config.json", "modules.json")  # one of these lies in each folder that is a model


@dataclass(frozen=True)
class Start:
    """A bundle to start from."""

    path: str
    """Its path in the storage."""
    fingerprint: str
    tokenizer_json: str
    heads: dict[str, str]
    """Task -> the name of its head."""
    trained: list[str]
    """The tasks whose heads are trained."""
    layers: int
    """Its encoder's."""


@dataclass(frozen=True)
class Lesson:
    """What a stage's task learns from beside its labels."""

    teachers: list[JobTeacher]
    """The teacher, or the members of the ensemble that it is."""
    train: str
    """The path of the token cache that the stage trains the task on."""
    content: dict[str, Any]
    """What of it makes the stage another one."""


@dataclass(frozen=True)
class Prepared:
    """What a recipe's stages start from and are trained on, all of it in the storage."""

    start: Start
    """What the recipe's `encoder` names."""
    bundles: dict[str, Start]
    """URI -> the bundle there, for stages that start from one."""
    caches: dict[str, dict[Split, str]]
    """Task -> split -> the path of its token cache."""
    tables: dict[str, dict[Split, TokenTable]]
    """Task -> split -> the content of its token cache."""
    lessons: dict[str, dict[str, Lesson]] = field(default_factory=dict)
    """Stage -> task -> what it learns from beside its labels."""

    def heads(self) -> dict[str, dict[str, str]]:
        """What a stage may start from, `encoder` or a URI -> the heads that come along: task -> name."""
        return {"encoder": self.start.heads, **{uri: start.heads for uri, start in self.bundles.items()}}

    def layers(self) -> dict[str, int]:
        """What a stage may start from, `encoder` or a URI -> the layers of the encoder there."""
        return {"encoder": self.start.layers, **{uri: start.layers for uri, start in self.bundles.items()}}

    def shas(self) -> dict[str, dict[str, str]]:
        return {task: {split: table.sha256 for split, table in tables.items()} for task, tables in self.tables.items()}


def prepare(recipe: Recipe, data: str | None, storage: Storage, tell: Tell = untold) -> Prepared:
    """Reads all data files and models of a recipe, and puts tokens and bundles into the storage.

    tell: what it raises ends the reading.
    Raises UserError for what is missing or malformed, before any work starts.
    """
    place = place_of_recipe(recipe, data)
    start = store_encoder(storage, recipe)
    foreign = {stage.from_ for stage in recipe.stages if stage.from_ and "/" in stage.from_}
    bundles = {uri: store_bundle(storage, uri, recipe, start.tokenizer_json) for uri in sorted(foreign)}
    caches: dict[str, dict[Split, str]] = {}
    tables: dict[str, dict[Split, TokenTable]] = {}
    unread = bool(data and not is_map(data))
    for name, spec in recipe.specs.items():
        uris = _files(recipe, spec, place)
        unread = unread and all(place.named(spec, split) for split in uris)
        caches[name] = {split: _cache(recipe, spec, split, uri, storage, start, tell) for split, uri in uris.items()}
        # The cache may have been made from a copy of the file elsewhere: the results name this one.
        tables[name] = {
            split: replace(load_tokens(storage, path), source=", ".join(map(absolute, uris[split])))
            for split, path in caches[name].items()
        }
    if unread:
        log.warning("--data %s: nothing of it is read: the recipe names the files of all its tasks", data)
    _check_similar_pairs(recipe, tables)
    _check_weights(recipe, tables)
    _say_scales(recipe, tables)
    prepared = Prepared(start, bundles, caches, tables)
    check_heads(recipe, f"recipe '{recipe.name}'", prepared.heads())
    check_layers(recipe, f"recipe '{recipe.name}'", prepared.layers(), prepared.heads())
    return prepared


def store_encoder(storage: Storage, recipe: Recipe) -> Start:
    """Puts the recipe's encoder into the storage as a bundle, where every worker finds the same bytes."""
    found = found_at(recipe.encoder, recipe.seed, recipe.pooling)
    bundle = _fit(recipe, found.bundle, recipe.encoder, "encoder")
    return stored(storage, bundle, digest({"encoder": found.fingerprint, "pooling": bundle.pooling}))


def store_bundle(storage: Storage, uri: str, recipe: Recipe, tokenizer_json: str) -> Start:
    """Puts a bundle that a stage starts from, its heads included, into the storage, where every worker finds the same
    bytes. Raises UserError where its tokenizer is another than the recipe's encoder has."""
    root, uri = uri, located(storage, uri, "from")
    found, fingerprint = read_bundle(Storage(uri)), bundle_fingerprint(Storage(uri))
    if found.tokenizer_json != tokenizer_json:
        raise UserError(f"from: '{uri}': its tokenizer is not the recipe's encoder's; give that bundle as encoder: too")
    bundle = _fit(recipe, found, uri, root)
    if bundle.pooling != found.pooling:
        fingerprint = digest({"bundle": fingerprint, "pooling": bundle.pooling})
    return stored(storage, bundle, fingerprint)


def _fit(recipe: Recipe, bundle: Bundle, source: str, root: str) -> Bundle:
    """The bundle with the recipe's pooling. Raises UserError where it cannot serve the recipe.

    source: what it is called. root: `encoder`, or what the stages that start from it say in `from:`. Warns where the
    recipe takes longer texts than the encoder's own files do.
    """
    _check_length(recipe, bundle, source)
    _check_pairs(recipe, bundle, source, root)
    _check_tasks(recipe, bundle, source)
    bundle = replace(bundle, pooling=recipe.pooling or bundle.pooling)
    if bundle.pooling == "pooler" and not has_pooler(bundle.tensors, "encoder."):
        raise UserError(f"pooling: pooler: '{source}' has no pooler; valid: {', '.join(MODES)}")
    longest = bundle.about.get("max_length", recipe.max_length)
    if not bundle.heads and source not in SOURCES and longest < recipe.max_length:
        log.warning(
            "encoder '%s': its own files cut texts to %d tokens, this recipe to %d; max_length: %d does as they do",
            source,
            longest,
            recipe.max_length,
            longest,
        )
    return bundle


def _check_pairs(recipe: Recipe, bundle: Bundle, source: str, root: str) -> None:
    """Raises UserError where a stage would go on with a head that was trained on pairs which the encoder read in
    another way. A head of another name begins anew."""
    for name, spec in recipe.specs.items():
        brought = bundle.specs.get(name, spec)
        kept = any(
            recipe.heads(stage, {root: bundle.heads})[name] == bundle.heads.get(name)
            for stage in recipe.stages
            if recipe.parent(stage) == root
        )
        if name in bundle.branches and (brought.joined, brought.segments) != (spec.joined, spec.segments):
            raise UserError(
                f"tasks.{name}.pair: '{source}' brings layers of the task's own that were trained on pairs which are "
                f"{brought.pairing}; here they are {spec.pairing}; valid: as they were trained, or another start"
            )
        if kept and (brought.joined, brought.segments) != (spec.joined, spec.segments):
            others = ", ".join(head for head in heads_for(spec) if head != bundle.heads[name])
            raise UserError(
                f"tasks.{name}.pair: '{source}' brings a head {bundle.heads[name]} that was trained on pairs which are "
                f"{brought.pairing}; here they are {spec.pairing}; another head begins anew: {others}"
            )


def _check_tasks(recipe: Recipe, bundle: Bundle, source: str) -> None:
    """Raises UserError where a head that comes along was trained for other labels.

    Equal shapes do not make equal words.
    """
    for name, spec in recipe.specs.items():
        brought = bundle.specs.get(name, spec) if name in bundle.heads else spec
        similar = spec.label.similar if brought.sentences == spec.sentences else brought.label.similar
        if (brought.label, len(brought.columns)) != (replace(spec.label, similar=similar), len(spec.columns)):
            raise UserError(
                f"tasks.{name}: '{source}' brings a head for another task of that name, {definition_of(brought)}, "
                f"which is not {definition_of(spec)}; give one of them another name"
            )


def _check_length(recipe: Recipe, bundle: Bundle, source: str) -> None:
    if recipe.max_length > bundle.config.max_position_embeddings:
        longest = bundle.config.max_position_embeddings
        raise UserError(f"max_length: {recipe.max_length}: encoder '{source}' takes {longest} tokens at most")


def located(storage: Storage, uri: str, at: str) -> str:
    """The URI of the model that a recipe names: EXPERIMENT/STAGE in this storage, or a URI.

    Raises UserError, naming the key `at`, where there is no such experiment.
    """
    if storage.exists(f"{uri.partition('/')[0]}/{EXPERIMENT_FILE}"):
        return find_bundle(join(storage.uri, uri)).uri
    if re.fullmatch(f"{NAME}/{NAME}", uri) and not any((Path(uri) / name).is_file() for name in MODELS):
        raise UserError(
            f"{at}: '{uri}': no experiment '{uri.partition('/')[0]}' in {storage.uri} and no bundle at that path; "
            f"run the recipe that makes it first, with the same --storage"
        )
    return uri


def _check_similar_pairs(recipe: Recipe, tables: dict[str, dict[Split, TokenTable]]) -> None:
    """Raises UserError where a stage that learns from similar pairs alone has none in the data of one of its tasks."""
    for stage in recipe.stages:
        for task in stage.tasks if stage.wants_similar else []:
            table, label = tables[task]["train"], recipe.specs[task].label
            rows = training_rows(len(table), stage.max_examples, recipe.seed, task)
            if label.similar is not None and not bool((table.labels[rows] >= label.similar).any()):
                raise UserError(
                    f"stages.{stage.name}.tasks: '{task}' has no similar pair in {len(rows)} rows of "
                    f"{table.source}: no {label.column} is {label.says(label.similar)} or more"
                )


def _check_weights(recipe: Recipe, tables: dict[str, dict[Split, TokenTable]]) -> None:
    """Raises UserError where all rows of a training file count for nothing."""
    for name, splits in tables.items():
        table = splits.get("train")
        if table is not None and table.weights is not None and not bool(table.weights.any()):
            raise UserError(
                f"tasks.{name}.weight: {recipe.tasks[name].weight}: all {len(table)} rows of {table.source} count 0"
            )


def _say_scales(recipe: Recipe, tables: dict[str, dict[Split, TokenTable]]) -> None:
    """Warns where a training file's scores seem to be on another scale than the task's."""
    for name, spec in recipe.specs.items():
        if table := tables[name].get("train"):
            note = scale_note(spec, recipe.tasks[name].head or spec.head, table.labels.numpy())
            if note:
                log.warning("tasks.%s: %s: %s", name, table.source, note)


def stored(storage: Storage, bundle: Bundle, fingerprint: str) -> Start:
    """Puts a bundle into the storage, under a hash of its content, unless it lies there."""
    key = fingerprint[:32]
    path = f"{ENCODERS}/{key}"
    try:
        read_sealed(storage, path, key)
    except Damaged as error:
        if is_sealed(storage, path):  # else it is not there yet, or was never finished
            log.warning("%s; made again", error)
        save_bundle(storage, path, bundle)
    trained = bundle.about.get("trained", list(bundle.heads))  # older bundles do not say
    return Start(path, fingerprint, bundle.tokenizer_json, bundle.heads, trained, bundle.config.num_hidden_layers)


def _files(recipe: Recipe, spec: TaskSpec, place: Place) -> dict[Split, list[str]]:
    """The files of a task: dev always, train where a stage wants it, test where there is one."""
    wanted: list[Split] = ["dev"]
    wanted += ["train"] if any(spec.name in stage.tasks for stage in recipe.stages) else []
    wanted += ["test"] if place.has(spec, "test") else []
    return {split: place.find(spec, split) for split in ("train", "dev", "test") if split in wanted}


def _cache(
    recipe: Recipe, spec: TaskSpec, split: Split, uris: list[str], storage: Storage, start: Start, tell: Tell
) -> str:
    return cache_tokens(
        storage,
        uris,
        spec,
        Tokenizer.from_str(start.tokenizer_json),
        labelled=split != "test",
        max_length=recipe.max_length,
        columns=recipe.tasks[spec.name].columns,
        max_bad_rows=recipe.max_bad_rows,
        weight=recipe.tasks[spec.name].weight if split == "train" else None,
        progress=told(tell, f"{spec.name} {split}"),
    )
