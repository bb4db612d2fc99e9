"""Exports load in transformers and sentence-transformers with our numbers, and come back whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from multitask.bundle.bundle import Bundle, facts_of, save_bundle
from multitask.data.batches import padded
from multitask.errors import UserError
from multitask.experiment.finding import open_bundle
from multitask.inference.embed import TextEncoder
from multitask.model import heads
from multitask.model.encoding import POOLINGS
from multitask.model.sources import load_source
from multitask.storage.storage import Storage
from multitask.tasks.labels import KINDS
from ray_jobs.bundles.export import export_bundle, import_model
from ray_jobs.screen import Screen
from tests.exports import HEADS, SPECS, TEXTS, answers, bundle_with, embedded, exported, imported
from tests.helpers import full_disk
from tests.s3 import S3
from tests.tokenizer_folders import roberta_json

FORMS = ("transformers", "sentence-transformers")


def saved(folder: Path, bundle: Bundle) -> str:
    save_bundle(Storage(str(folder)), "", bundle)
    return str(folder)


def same(one: Bundle, other: Bundle) -> bool:
    """Equal to the bit, facts, tokenizer and outputs included."""
    assert one.tensors.keys() == other.tensors.keys()
    tensors = all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    outputs = all(torch.equal(answers(one, task), answers(other, task)) for task in one.heads)
    facts = facts_of(one) == facts_of(other) and one.tokenizer_json == other.tokenizer_json
    return tensors and outputs and facts and np.array_equal(embedded(one), embedded(other))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "pooling",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("mean", "cls"))) for name in sorted(POOLINGS)],
)
def test_a_bundle_comes_back_as_it_was(tmp_path: Path, form: str, pooling: str) -> None:
    bundle = bundle_with(pooling=pooling)
    folder = exported(saved(tmp_path / "bundle", bundle), form, tmp_path / "out")
    assert same(imported(folder, tmp_path / "back"), bundle)


@pytest.mark.parametrize("form", FORMS)
def test_halves_come_back_as_the_nearest_halves(tmp_path: Path, form: str) -> None:
    bundle = bundle_with(pooling="pooler")
    uri = saved(tmp_path / "bundle", bundle)
    full, half = (exported(uri, form, tmp_path / dtype, dtype) for dtype in ("float32", "float16"))
    sizes = [sum(file.stat().st_size for file in folder.rglob("*.safetensors")) for folder in (full, half)]
    assert sizes[1] < 0.52 * sizes[0]
    found = imported(half, tmp_path / "back")
    assert found.about == {**bundle.about, "dtype": "float16"}
    assert all(torch.equal(value, bundle.tensors[name].half().float()) for name, value in found.tensors.items())
    assert np.abs(embedded(found) - embedded(bundle)).max() < 5e-3


def test_a_weight_beyond_halves_is_refused(tmp_path: Path) -> None:
    bundle = bundle_with(heads={})
    bundle.tensors["encoder.pooler.dense.bias"][3] = -70000.0
    with pytest.raises(UserError, match=r"--dtype float16: encoder\.pooler\.dense\.bias reaches 70000; take --dtype"):
        exported(saved(tmp_path / "bundle", bundle), "transformers", tmp_path / "out", "float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_transformers_gives_our_states(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bundle = bundle_with(pooling="pooler")
    folder = str(exported(saved(tmp_path / "bundle", bundle), "transformers", tmp_path / "out"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, report = transformers.BertModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())  # no weight made up, none left over
    inputs = tokenizer(TEXTS, truncation=True, padding=True, return_tensors="pt")
    ours = bundle.tokenizer
    ours.enable_truncation(bundle.max_length)
    ids, mask = padded([encoding.ids for encoding in ours.encode_batch(TEXTS)])
    assert torch.equal(inputs["input_ids"], ids) and inputs.keys() == {"input_ids", "attention_mask"}
    assert ids.shape[1] == bundle.max_length
    encoder = bundle.model(heads={}).eval().encoder
    with torch.no_grad():
        theirs, states = model.eval()(**inputs), encoder(ids, mask)
    assert (theirs.last_hidden_state - states)[mask].abs().max() < 1e-6
    assert (theirs.pooler_output - encoder.pool(states)).abs().max() < 1e-6


def test_transformers_joins_pairs_as_we_do(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bundle = bundle_with()
    folder = str(exported(saved(tmp_path / "bundle", bundle), "transformers", tmp_path / "out"))
    ours = bundle.tokenizer
    ours.enable_truncation(bundle.max_length)
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(*map(list, zip(*pairs, strict=True)), truncation=True)
    assert theirs["input_ids"] == [encoding.ids for encoding in ours.encode_batch(pairs)]


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_sentence_transformers_gives_our_embeddings(tmp_path: Path, pooling: str) -> None:
    peer = pytest.importorskip("sentence_transformers")
    bundle = bundle_with(pooling=pooling)
    folder = exported(saved(tmp_path / "bundle", bundle), "sentence-transformers", tmp_path / "out")
    model = peer.SentenceTransformer(str(folder), device="cpu")
    theirs, ours = model.encode(TEXTS), embedded(bundle)
    assert np.abs(theirs - ours).max() < 1e-6
    assert np.abs(model.similarity(theirs, theirs).numpy() - ours @ ours.T).max() < 1e-6


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_what_sentence_transformers_saves_comes_back(tmp_path: Path, pooling: str) -> None:
    peer = pytest.importorskip("sentence_transformers")
    bundle = bundle_with(heads={}, pooling=pooling, mlm=None)
    folder = exported(saved(tmp_path / "bundle", bundle), "sentence-transformers", tmp_path / "out")
    peer.SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "theirs"))
    found = imported(tmp_path / "theirs", tmp_path / "back")
    assert found.pooling == pooling and found.max_length == bundle.max_length and not found.heads
    assert np.array_equal(embedded(found), embedded(bundle))


@pytest.mark.slow
def test_the_packaged_encoder_makes_the_round(minilm: Path, tmp_path: Path) -> None:
    peer = pytest.importorskip("sentence_transformers")
    bundle = imported(minilm, tmp_path / "bundle")
    assert bundle.pooling == "mean" and bundle.max_length == 256
    theirs = peer.SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    assert np.abs(embedded(bundle) - theirs).max() < 1e-6
    for form in FORMS:
        folder = exported(str(tmp_path / "bundle"), form, tmp_path / form)
        assert same(imported(folder, tmp_path / f"back-{form}"), bundle)
    again = peer.SentenceTransformer(str(tmp_path / "sentence-transformers"), device="cpu").encode(TEXTS)
    assert np.abs(again - theirs).max() < 1e-6


def test_an_import_is_a_bundle_like_any_other(tmp_path: Path) -> None:
    exported("tiny", "sentence-transformers", tmp_path / "out")
    found = imported(tmp_path / "out", tmp_path / "back")
    assert np.array_equal(embedded(found), TextEncoder(open_bundle("tiny")).embed(TEXTS))
    with pytest.raises(UserError, match="is a bundle already"):
        import_model(str(tmp_path / "back"), str(tmp_path / "again"), Screen())


def edited(folder: Path, name: str, **values: object) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def module(folder: Path, kind: str, at: int, path: str | None = None) -> None:
    file = folder / "modules.json"
    modules = json.loads(file.read_text())
    modules[at] |= {"type": f"sentence_transformers.models.{kind}"} | ({"path": path} if path else {})
    file.write_text(json.dumps(modules))


REFUSED = {
    "another architecture": (lambda at: edited(at, "config.json", model_type="roberta"), "model_type is 'roberta'"),
    "another pooling": (
        lambda at: (at / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["cls", "mean"]}'),
        "its pooling is cls and mean, not one of: cls, mean, max, ",
    ),
    "another module": (
        lambda at: module(at, "WordWeights", 2),
        "WordWeights in '2_Dense', Normalize in '3_Normalize'; valid",
    ),
    "another place": (lambda at: module(at, "Pooling", 1, "pool"), "pool/config.json: no such file"),
    "another activation": (
        lambda at: edited(at, "2_Dense/config.json", activation_function="torch.nn.modules.linear.Identity"),
        "Identity of 64 to 64 over cls pooling; valid: BERT's own pooler",
    ),
    "another width": (lambda at: edited(at, "2_Dense/config.json", out_features=32), "Tanh of 64 to 32 over cls"),
    "no list": (lambda at: (at / "modules.json").write_text("{}"), "modules.json: holds a dict; valid: a list"),
    "no JSON": (lambda at: (at / "minibert.json").write_text("{"), "minibert.json: damaged: "),
    "no facts": (lambda at: (at / "minibert.json").write_text("{}"), "minibert.json: damaged: "),
    "no heads' names": (lambda at: edited(at, "minibert.json", heads=7), "model.json: heads: Input should be a"),
    "no length": (lambda at: edited(at, "minibert.json", about={"max_length": "x"}), "about.max_length: Input"),
    "no heads": (lambda at: (at / "minibert.safetensors").unlink(), "minibert.safetensors: no such file"),
    "torn heads": (lambda at: (at / "minibert.safetensors").write_bytes(b"torn"), "not a sound safetensors file"),
    "heads that do not fit": (lambda at: edited(at, "minibert.json", heads={"quora": "linear"}), "bundle"),
    "no dense layer": (
        lambda at: (at / "2_Dense" / "model.safetensors").unlink(),
        "2_Dense/model.safetensors: no such",
    ),
}


def unseal(folder: Path) -> None:
    """As builds before the seals exported."""
    facts = json.loads((folder / "minibert.json").read_bytes())
    del facts["seal"], facts["files"]
    (folder / "minibert.json").write_text(json.dumps(facts, indent=2))


def test_an_export_that_has_changed_is_refused_by_the_files_name(tmp_path: Path) -> None:
    bundle = bundle_with({"quora": "interaction"}, pooling="pooler")
    folder = exported(saved(tmp_path / "bundle", bundle), "sentence-transformers", tmp_path / "out")
    read = [*folder.glob("*.json"), *folder.glob("*/*.json"), *folder.rglob("*.safetensors")]
    unread = {folder / name for name in ("special_tokens_map.json", "config_sentence_transformers.json")}
    assert len(set(read) - unread) == 11
    for file in sorted(set(read) - unread):
        content = file.read_bytes()
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(UserError, match=f"{file}: damaged") as caught:
            import_model(str(folder), str(tmp_path / "back"), Screen())
        assert ("remove minibert.json" in str(caught.value)) == (file.name != "minibert.json")
        file.write_bytes(content)
    (folder / "README.md").write_text("my own words\n")
    imported(folder, tmp_path / "back")


def test_a_file_that_was_not_exported_is_not_read(tmp_path: Path) -> None:
    """It would say how sentences are pooled, in the place of what the export itself says."""
    bundle = saved(tmp_path / "bundle", bundle_with({"quora": "interaction"}, pooling="mean"))
    folder, other = (exported(bundle, form, tmp_path / form) for form in ("transformers", "sentence-transformers"))
    (folder / "modules.json").write_bytes((other / "modules.json").read_bytes())
    with pytest.raises(UserError, match=r"modules\.json: damaged: not what minibert export wrote"):
        import_model(str(folder), str(tmp_path / "back"), Screen())


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_a_bundle_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    bundle = bundle_with({"quora": "interaction"}, pooling="pooler")
    folder = exported(saved(tmp_path / "bundle", bundle), "sentence-transformers", tmp_path / "out")
    unseal(folder)
    damage, message = REFUSED[fault]
    damage(folder)
    with pytest.raises(UserError) as caught:
        import_model(str(folder), str(tmp_path / "back"), Screen())
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "out"]


def test_an_encoder_without_a_pooler_needs_another_pooling(tmp_path: Path) -> None:
    bundle = bundle_with(heads={}, mlm=None)
    folder = exported(saved(tmp_path / "bundle", bundle), "sentence-transformers", tmp_path / "out")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    (folder / "minibert.json").unlink()
    assert np.array_equal(embedded(imported(folder, tmp_path / "back")), embedded(bundle))
    for name in ("modules.json", "1_Pooling/config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="2 missing tensors for a BERT encoder"):
        load_source(str(folder))


@pytest.mark.parametrize(
    ("settings", "length"), [({"max_seq_length": 31}, 31), ({"max_seq_length": None}, 77), ({}, 77)]
)
def test_how_long_texts_may_be_comes_from_whoever_says_so(
    tmp_path: Path, settings: dict[str, object], length: int
) -> None:
    folder = exported("tiny", "sentence-transformers", tmp_path / "out")
    (folder / "minibert.json").unlink()
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    edited(folder, "tokenizer_config.json", model_max_length=77)
    assert imported(folder, tmp_path / "back").max_length == length


def test_a_default_prompt_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = exported("tiny", "sentence-transformers", tmp_path / "out")
    (folder / "minibert.json").unlink()
    edited(folder, "config_sentence_transformers.json", prompts={"q": "query: "}, default_prompt_name="q")
    assert imported(folder, tmp_path / "back").about["prompt"] == "query: "
    assert "puts 'query: ' before each text; minibert does not" in caplog.text


def test_lower_case_is_made_as_sentence_transformers_makes_it(tmp_path: Path) -> None:
    peer = pytest.importorskip("sentence_transformers")
    bundle = bundle_with(heads={}, mlm=None)
    cased = bundle.tokenizer_json.replace('"lowercase":true', '"lowercase":false')
    assert cased != bundle.tokenizer_json
    folder = exported(
        saved(tmp_path / "b", replace(bundle, tokenizer_json=cased)), "sentence-transformers", tmp_path / "o"
    )
    (folder / "minibert.json").unlink()
    edited(folder, "sentence_bert_config.json", do_lower_case=True)
    theirs = peer.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(embedded(imported(folder, tmp_path / "back")) - theirs).max() < 1e-6


def with_tokenizer(tmp_path: Path, change: Callable[[Tokenizer], object]) -> tuple[Bundle, Path]:
    """The tiny encoder with another tokenizer and room for eight more tokens, and its export."""
    bundle, name = bundle_with(heads={}, mlm=None), "encoder.embeddings.word_embeddings.weight"
    tokenizer, words = bundle.tokenizer, bundle.tensors["encoder.embeddings.word_embeddings.weight"]
    change(tokenizer)
    bundle = replace(
        bundle,
        config=replace(bundle.config, vocab_size=len(words) + 8),
        tensors={**bundle.tensors, name: torch.cat([words, words[:8]])},
        tokenizer_json=tokenizer.to_str(),
    )
    return bundle, exported(saved(tmp_path / "bundle", bundle), "transformers", tmp_path / "out")


ODD = ["the [E1]new_tok film", "[e1] NEW_TOK The Film", "[CLS] a [MASK]", "Été 中国"]


def add(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens(["[E1]"])
    tokenizer.add_tokens(["new_tok"])
    tokenizer.normalizer = BertNormalizer(lowercase=False)


@pytest.mark.slow
def test_added_tokens_and_case_are_in_every_file_of_a_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bundle, folder = with_tokenizer(tmp_path, add)
    words = (folder / "vocab.txt").read_text().split("\n")[:-1]
    assert words[-2:] == ["[E1]", "new_tok"]
    assert all(bundle.tokenizer.token_to_id(word) == at for at, word in enumerate(words))
    wanted = [encoding.ids for encoding in bundle.tokenizer.encode_batch(ODD)]
    for name in ("AutoTokenizer", "BertTokenizer"):  # the latter builds one of the vocabulary and the settings
        assert getattr(transformers, name).from_pretrained(str(folder))(ODD)["input_ids"] == wanted, name
    assert imported(folder, tmp_path / "back").tokenizer_json == bundle.tokenizer_json


@pytest.mark.parametrize("token", ["two\nlines", "space ", "the\u3000", "\r"])
def test_a_vocabulary_that_lines_cannot_hold_is_not_written(tmp_path: Path, token: str) -> None:
    _, folder = with_tokenizer(tmp_path, lambda tokenizer: tokenizer.add_tokens([token]))
    assert not (folder / "vocab.txt").exists() and (folder / "tokenizer.json").is_file()


def test_special_tokens_by_xlm_rs_names_are_named(tmp_path: Path) -> None:
    """Else transformers has nothing to pad with."""
    transformers = pytest.importorskip("transformers")
    bundle = bundle_with(heads={}, mlm=None)
    bundle = replace(bundle, tokenizer_json=roberta_json())
    folder = exported(saved(tmp_path / "bundle", bundle), "transformers", tmp_path / "out")
    rows = transformers.AutoTokenizer.from_pretrained(str(folder))(["the cat", "cat"], padding=True)["input_ids"]
    assert rows == [[0, 4, 9, 2], [0, 9, 2, 1]]


def test_an_upload_that_was_cut_off_is_known_though_a_listing_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    export_bundle("tiny", "transformers", "memory://cut-off", "float32", None, Screen())
    target = Storage("memory://cut-off")
    target.remove("config.json")  # the last file
    monkeypatch.setattr(Storage, "list", lambda self: ["README.md"])
    export_bundle("tiny", "transformers", "memory://cut-off", "float32", None, Screen())
    assert target.exists("config.json")


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path, command: str) -> None:
    exported("tiny", "transformers", tmp_path / "model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("mine")
    with pytest.raises(UserError, match=r"mine': holds config.json; name a directory that is not there yet"):
        if command == "export":
            exported("tiny", "transformers", tmp_path / "mine")
        else:
            import_model(str(tmp_path / "model"), str(tmp_path / "mine"), Screen())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.json"]


def test_an_empty_directory_and_a_deep_one_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b/c"):
        assert (exported("tiny", "transformers", tmp_path / name) / "config.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_nothing(tmp_path: Path, form: str) -> None:
    with full_disk(200_000), pytest.raises(UserError, match="cannot be written"):
        exported("tiny", form, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_object_store_takes_it_and_gives_it_back(s3: S3, tmp_path: Path) -> None:
    bundle, store = bundle_with(), Storage(f"{s3.uri}/models")
    saved(tmp_path / "bundle", bundle)
    export_bundle(str(tmp_path / "bundle"), "sentence-transformers", store.at("out").uri, "float32", None, Screen())
    assert "config.json" in store.list("out") and store.list("out/1_Pooling") == ["config.json"]
    import_model(store.at("out").uri, store.at("back").uri, Screen())
    assert same(open_bundle(store.at("back").uri), bundle)
    with pytest.raises(UserError, match="name a directory that is not there yet"):
        export_bundle("tiny", "transformers", store.at("out").uri, "float32", None, Screen())


@pytest.mark.slow
def test_an_upload_that_was_cut_off_is_no_model_and_may_be_done_again(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, put = Storage(f"{s3.uri}/cut"), Storage.write_file
    done: list[str] = []

    def cut(self: Storage, path: str, file: Path) -> None:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(path)
        put(self, path, file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Storage, "write_file", cut)
        export_bundle("tiny", "transformers", target.uri, "float32", None, Screen())
    assert target.list() and "config.json" not in target.list()
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        import_model(target.uri, str(tmp_path / "back"), Screen())
    export_bundle("tiny", "transformers", target.uri, "float32", None, Screen())
    assert imported(target.uri, tmp_path / "back").pooling == "mean"


@pytest.mark.parametrize(
    ("form", "dtype", "message"),
    [
        ("gguf", "float32", "--format 'gguf': one of transformers, sentence-transformers, cross-encoder, onnx"),
        ("onnx", "bfloat16", "--dtype 'bfloat16': one of float32, float16"),
    ],
)
def test_what_there_is_to_choose_from_is_said(tmp_path: Path, form: str, dtype: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        exported("tiny", form, tmp_path / "out", dtype)


def test_every_head_and_every_kind_of_label_is_tried_here() -> None:
    assert {*HEADS.values()} == heads.HEADS.keys()
    assert {SPECS[task].label.kind for task in HEADS} == KINDS.keys()
    assert any(SPECS[task].joined for task in HEADS)
