"""What strangers write and we read: good examples of each, how they are damaged, and what reads them."""

import gzip
import io
import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_lake import manifest
from data_lake.settings_errors import parse
from data_lake.stores import LocalStore
from flows.settings import load_settings
from model.config import RecommendConfig, TrainConfig
from model.data.training_set import TrainingSet
from model.evaluation.scoring import load_scorer
from model.exported import export_model, load_exported
from model.recommend import Recommender
from model.settings import read_settings
from model.training.train import prepare, train
from pipeline.config import DataConfig
from pipeline.ingest import readers
from pipeline.ingest.describe_inputs import describe
from pipeline.ingest.read_histories import read_histories
from pipeline.llm import openai_batch
from pipeline.llm.completion import error_status, is_overflow, read_completion
from pipeline.llm.endpoint import Answer
from pipeline.llm.generator import (
    Candidate,
    DescriptionQuestion,
    DomainProfileQuestion,
    DomainSummary,
    Question,
    Request,
    UserProfileQuestion,
)
from pipeline.llm.prompts import description_schema, items_schema, numbers_schema, profile_schema, scores_schema
from pipeline.llm.reading import read_reply
from tests.fuzz.mutate import forged_footer, mutated_bytes, mutated_table, mutated_tree
from tests.fuzz.runner import Target, scratch
from tests.model.conftest import SMALL, tiny_tables
from tests.pipeline.whole_ingest import ingest_whole
from tests.pipeline.worlds import items_question

CFG = RecommendConfig(device="cpu")


def targets() -> list[Target]:
    """Return all targets; their shares add up to a thousand."""
    return [
        Target("replies", 470, _reply, _read_reply),
        Target("completions", 280, _completion, _read_completion),
        Target("manifests", 130, _manifest, _read_manifest),
        Target("settings", 40, _settings, _read_settings),
        Target("text files", 25, _text_file, _read_file),
        Target("parquet", 20, _parquet_file, _read_file),
        Target("ingest", 5, _raw_data, _ingest),
        *_of_models(),
    ]


# What language models and endpoints say

_CHAT = (
    {"role": "system", "content": "You know a shop. Name items of kitchen, such as a Green Teapot."},
    {"role": "user", "content": 'Items chosen, oldest first:\n"Herb Tea, 16 oz"\n"Rye Bread"'},
)
_ITEMS = items_question(titles=["Herb Tea, 16 oz", "Rye Bread"])
_CHOICE = replace(_ITEMS, candidates=(Candidate("k1", "Pan"), Candidate("k2", "Wok"), Candidate("k3", "Pot")))


def _request(question: Question, schema: Mapping[str, Any], **more: Any) -> Request:
    return Request(question, _CHAT, schema, 64, **more)  # type: ignore[arg-type]


REQUESTS: Sequence[tuple[Request, Any]] = [
    (_request(_ITEMS, items_schema(4)), {"items": ["Green teapot", "Copper pan", "A wok that is"]}),
    (_request(_CHOICE, numbers_schema(2, 3)), {"numbers": [3, 1]}),
    (_request(_CHOICE, scores_schema(3), choices=("1", "2", "3")), {"scores": [-1.5, -2, -0.25]}),
    (
        _request(DomainProfileQuestion("u", "food", (("Herb Tea, 16 oz",), ("Rye Bread",)), 2, False, 5),
                 profile_schema(5)),
        {"profile": "Likes tea with bread."},
    ),
    (
        _request(UserProfileQuestion((DomainSummary("food", "Prefers herb tea.", 2),)), profile_schema(5),
                 is_text=True, is_retry=True),
        {"profile": "Likes herbs."},
    ),
    (
        _request(DescriptionQuestion("food", "Herb Tea, 16 oz"), description_schema({"attributes": 3, "goes_with": 2})),
        {"attributes": ["loose leaf", "mild"], "goes_with": ["cast iron kettle"]},
    ),
]  # fmt: skip
_REPLY_WORDS = (
    b"```json\n", b"```", b"<think>", b"</think>", b"[THINK]", b"<|message|>", b"{", b"}", b"[", b"]", b'"', b"\\ud800",
    b"\\u0000", b"Herb Tea, 16 oz", b"Sure! ", b'{"items": []}', b"NaN", b"Infinity", b",", b"...", "…".encode(),
    b"[" * 2000, b'{"a":' * 500, b"\xe2\x80\xa8",
)  # fmt: skip


def _reply(rng: random.Random) -> tuple[str, Request, bool]:
    request, good = rng.choice(REQUESTS)
    text = json.dumps(mutated_tree(good, rng) if rng.random() < 0.5 else good).encode()
    if rng.random() < 0.8:
        text = mutated_bytes(text, rng, _REPLY_WORDS)
    return text.decode("utf-8", rng.choice(("replace", "surrogateescape"))), request, rng.random() < 0.8


def _read_reply(made: tuple[str, Request, bool], _: Path) -> object:
    return read_reply(*made)


_COMPLETIONS: Sequence[Any] = [
    {
        "choices": [{"message": {"role": "assistant", "content": '{"items": ["wok"]}'}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}},
    },
    {"choices": [{"message": {"content": [{"type": "text", "text": "a"}], "reasoning": "{}"}, "finish_reason": None}]},
    {"choices": [{"text": '{"items": ["wok"]}', "finish_reason": "length"}]},
    {"choices": [{"message": {"content": None, "refusal": "I will not."}, "finish_reason": "content_filter"}]},
    {"error": {"message": "maximum context length is 8", "code": "context_length_exceeded", "type": "invalid_request"}},
    {"object": "error", "message": "busy", "code": 503},
    {"custom_id": "k", "response": {"status_code": 200, "body": {"choices": [{"message": {"content": "a"}}]}}},
]
_COMPLETION_WORDS = (b'"error"', b'"choices"', b"[", b"{", b"}", b"null", b"[" * 2000, b"\\ud800", b"429", b":", b",")


def _completion(rng: random.Random) -> tuple[bytes, Request, int]:
    body = json.dumps(mutated_tree(rng.choice(_COMPLETIONS), rng)).encode()
    if rng.random() < 0.4:
        body = mutated_bytes(body, rng, _COMPLETION_WORDS)
    return body, rng.choice(REQUESTS)[0], rng.choice((0, 200, 400, 413, 422, 500))


def _read_completion(made: tuple[bytes, Request, int], _: Path) -> object:
    body, request, status = made
    answer = Answer(status, body)
    error_status(answer.content)
    is_overflow(status, body)
    openai_batch._result(body)
    return read_completion(answer.content, request)


# The lake

_HASH = "0123456789abcdef" * 4
_MANIFEST = {
    "stage": "ingest", "version": 1, "fingerprint": _HASH, "settings": {"a": {"b": [1, None]}},
    "inputs": {"items": {"content": _HASH, "rows": 3}}, "sources": {"a.csv": _HASH},
    "outputs": {
        "items": {
            "content": _HASH, "rows": 3,
            "files": {
                "part-00000.parquet": {"rows": 3, "bytes": 4, "sha256": _HASH, "mtime_ns": 1},
                "sub/part-00000.parquet": {"rows": None, "bytes": 0, "sha256": _HASH, "mtime_ns": 1},
            },
        }
    },
    "figures": {"bad": {"no_item": 1}}, "git": None, "versions": {"python": "3.11.0"},
    "started": "2026-01-01T00:00:00+00:00", "seconds": 1.5, "peak_bytes": 10, "error": "", "skipped": False, "why": "",
}  # fmt: skip
_MANIFEST_WORDS = (b"..", b"/", b"../../x", b"\\u0000", b"\\ud800", b"[" * 500, b'{"a":' * 200, b"null", b"-1", b'""')


def _manifest(rng: random.Random) -> tuple[bytes, str]:
    text = json.dumps(mutated_tree(_MANIFEST, rng) if rng.random() < 0.7 else _MANIFEST).encode()
    if rng.random() < 0.5:
        text = mutated_bytes(text, rng, _MANIFEST_WORDS)
    name = mutated_bytes(_HASH.encode(), rng, (b"..", b"/", b"../..", b".", b"failed")) if rng.random() < 0.3 else None
    return text, _HASH if name is None else name.replace(b"\0", b"").decode("utf-8", "replace")[:80] or "."


def _read_manifest(made: tuple[bytes, str], folder: Path) -> object:
    text, current = made
    home = folder / "items"
    (home / _HASH).mkdir(parents=True, exist_ok=True)
    (home / _HASH / manifest.MANIFEST).write_bytes(text)
    (home / _HASH / "part-00000.parquet").write_bytes(b"1234")
    (home / "current").unlink(missing_ok=True)
    os.symlink(current, home / "current")
    store = LocalStore(folder)
    found = store.manifest("items")
    if found is not None and "items" in found.outputs:
        store.find_alteration("items", found, full=True)
        found.table()
        store.folder("items", found)
        manifest.changes(found.settings, _MANIFEST["settings"])  # type: ignore[arg-type]
    return found


# Settings

_TOML = b"""dataset = "shop"
seed = 3
[data]
interactions = {food = "f.csv", kitchen = ["k.csv", "l.csv"]}
items = "items.csv"
min_user = 5
times = "real"
[data.columns]
user_id = "user"
text = ["brand"]
[split]
by = "time"
[enrich]
place = "similar"
[domains.food]
describe = "what one eats"
[llm]
model = "m"
temperature = 0.5
[openai]
base_url = "http://127.0.0.1:8000/v1"
extra_body = {chat_template_kwargs = {enable_thinking = false}}
[train]
preset = "release"
[train.network]
hidden = 64
recency_half_lives = [5.0, 20.0]
[evaluate]
protocols = ["full", "sampled-100"]
[lake]
root = "store"
"""
_TOML_WORDS = (
    b"[", b"]", b"[[", b"=", b'"""', b"'''", b"{", b"}", b"[train]\n", b"[train.loss]\n", b"nan\n", b"inf", b"true",
    b"1979-05-27T07:32:00Z", b"a.b.c = 1\n", b"seed = 1\n", b"profile.domain_prompt = ''\n", b"\\uD800", b"[" * 300,
    b"a." * 300, b"\xef\xbb\xbf", b"preset = 'release+ids'\n", b"trends = [1]\n", b"0o7", b"-1",
)  # fmt: skip
_OVERRIDES = (b"train.seed=1", b"data.min_user=3", b"llm.model=x", b"evaluate.protocols=['full']", b"domains.a.b.c={}")


def _settings(rng: random.Random) -> tuple[bytes, list[str]]:
    text = mutated_bytes(_TOML, rng, _TOML_WORDS) if rng.random() < 0.9 else _TOML
    is_set = rng.random() < 0.3
    given = [mutated_bytes(rng.choice(_OVERRIDES), rng, _TOML_WORDS).decode("utf-8", "replace")] if is_set else []
    return text, given


def _read_settings(made: tuple[bytes, list[str]], folder: Path) -> object:
    text, overrides = made
    path = folder / "edt.toml"
    path.write_bytes(text)
    return load_settings(path, overrides)


# Raw files

_CSV = b'user_id,item_id,domain,timestamp,rating,title\nu1,f1,food,1500000000,5,"tea, ""green"""\nu1,k1,kitchen,\
2017-07-14T02:40:00Z,4,"two\nlines"\nu2,f1,food,1500000001,,\nu2,k1,kitchen,1500000002000,3.5,Pan &amp; lid\n'
_JSON = b"""{"user_id": "u1", "item_id": "f1", "domain": "food", "timestamp": 1500000000, "rating": 5.0, "title": "t"}
{"user_id": "u1", "item_id": "k1", "domain": "kitchen", "timestamp": "2017-07-14", "title": ["a", "b"]}
{'user_id': 'u2', 'item_id': 'f1', 'domain': 'food', 'timestamp': 1500000001, 'title': "it's"}
{"user_id": "u2", "item_id": "k1", "domain": "kitchen", "timestamp": 1500000002000, "title": {"a": null}}
"""
_ITEMS_CSV = b"item_id,domain,title\nf1,food,Green tea\nf2,food,Rye bread\nk1,kitchen,Pan\nk2,kitchen,Wok\n"
_TEXT_WORDS = (
    b",", b"\t", b'"', b'""', b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"PAR1", b"{", b"}",
    b"[", b"]" * 50, b"[" * 3000, b"{'a':" * 300, b"(" * 300, b"null", b"NaN", b"-" * 5000, b"\\ud800", b"'",
    b"<script>", b"&" * 200, b"&#55296;", b"&#99999999999;", b"9" * 5000, b"1e999", b"0001-01-01", b"9999-12-31T23:59",
    b"user_id", b"a," * 2000, b"line number of LLM-EDT",
)  # fmt: skip
_TEXTS = {"a.csv": _CSV, "a.tsv": _CSV.replace(b",", b"\t"), "a.jsonl": _JSON}


def _text_file(rng: random.Random) -> tuple[str, bytes]:
    name, good = rng.choice(list(_TEXTS.items()))
    text = mutated_bytes(good, rng, _TEXT_WORDS)
    if rng.random() < 0.2:
        packed = gzip.compress(text, 1, mtime=0)
        return name + ".gz", mutated_bytes(packed, rng) if rng.random() < 0.5 else packed
    return name, text


def _parquet(table: pa.Table, **more: Any) -> bytes:
    """Return a table as a file; nothing where Parquet has no such column, or the table breaks its own schema."""
    sink = io.BytesIO()
    try:
        pq.write_table(table, sink, **more)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return b""
    return sink.getvalue()


_RAW = pa.table({
    "user_id": ["u1", "u1", "u2", "u2"], "item_id": pa.array([b"f1", b"k1", b"f1", b"k1"]),
    "domain": pa.array(["food", "kitchen", "food", "kitchen"]).dictionary_encode(),
    "timestamp": pa.array([1, 2, 3, 4], pa.timestamp("ms", "UTC")), "rating": pa.array([1, 2, None, 4], pa.float32()),
    "title": [["a", None], [], None, ["b"]],
})  # fmt: skip


def _parquet_file(rng: random.Random) -> tuple[str, bytes]:
    packing = rng.choice(("none", "snappy", "zstd"))
    table = mutated_table(_RAW, rng) if rng.random() < 0.5 else _RAW
    data = _parquet(table, compression=packing, use_dictionary=rng.random() < 0.5)
    return "a.parquet", _damaged_parquet(data, rng) if rng.random() < 0.8 else data


def _damaged_parquet(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return forged_footer(data, rng)
    return mutated_bytes(data, rng, (b"PAR1", b"\0\0\0\0"))


def _read_file(made: tuple[str, bytes], folder: Path) -> object:
    name, data = made
    path = folder / name
    path.write_bytes(data)
    columns = readers.columns_of(path)
    some = list(dict.fromkeys(columns[:6]))
    readers.read(path, some, only_head=True)
    return readers.read(path, some)


def _raw_data(rng: random.Random) -> tuple[dict[str, bytes], str, int]:
    name, data = _text_file(rng) if rng.random() < 0.8 else _parquet_file(rng)
    items = mutated_bytes(_ITEMS_CSV, rng, _TEXT_WORDS) if rng.random() < 0.4 else _ITEMS_CSV
    return {name: data, "items.csv": items}, name, rng.randrange(3)


def _ingest(made: tuple[dict[str, bytes], str, int], folder: Path) -> object:
    files, name, reader = made
    for path, data in files.items():
        (folder / path).write_bytes(data)
    given = {"interactions": folder / name, "items": folder / "items.csv", "max_bad": 1.0, "unknown_items": "keep"}
    cfg = DataConfig.model_validate(given)
    if reader == 0:
        return describe(folder / name, folder / "items.csv")
    return read_histories(folder / name, cfg) if reader == 1 else ingest_whole(cfg)


# Training sets and weights

_MODEL_WORDS = (b"{}", b"null", b"[" * 500, b"1e999", b"-1", b'"F32"', b'"BF16"', b'"BOOL"', b"\0", b"99999999999")
_CHECKED = ("config.json", "model.safetensors", "train_state.safetensors", "train.json")


def _of_models() -> list[Target]:
    """Return the targets that read training sets, phases, and exported models."""
    tables = tiny_tables()
    data = TrainingSet.from_tables(tables)
    good = {name: _parquet(table) for name, table in tables.items()}
    cfg = TrainConfig.model_validate(SMALL)
    with scratch() as folder, redirect_stderr(io.StringIO()):
        for name, content in good.items():
            _put(folder / "data" / name / "part-0.parquet", content)
        train(data, cfg, "pretrain", folder / "pretrained", folder)
        train(data, cfg, "finetune", folder / "checkpoint", folder / "pretrained")
        phase = {path.name: path.read_bytes() for path in (folder / "checkpoint").iterdir()}
        started = {path.name: path.read_bytes() for path in (folder / "pretrained").iterdir()}
        model = Recommender.load(folder / "data", folder / "checkpoint", CFG)
        export_model(folder / "out", folder / "data", folder / "checkpoint", model)
        inside = (path for path in (folder / "out").rglob("*") if path.is_file())
        exported = {str(path.relative_to(folder / "out")): path.read_bytes() for path in inside}

    def stored(rng: random.Random) -> tuple[dict[str, bytes], bool]:
        return {f"{name}/part-0.parquet": content for name, content in good.items()} | {
            f"{name}/part-0.parquet": _damaged_table(tables[name], rng) for name in rng.sample(list(tables), 1)
        }, rng.random() < 0.3

    def read_stored(made: tuple[dict[str, bytes], bool], folder: Path) -> object:
        _put_all(folder, made[0])
        found = TrainingSet.load(folder, stream=made[1])
        assert found.digest
        assert found.real_before[-1] <= len(found.items)
        return found

    def weights(rng: random.Random) -> tuple[dict[str, bytes], bool]:
        is_started = rng.random() < 0.4
        files = started if is_started else phase
        name = rng.choice(_CHECKED[:3] if is_started else _CHECKED[:2])
        if rng.random() < 0.1:
            return files | {"train.json": _damaged_json(json.dumps(SMALL).encode(), rng)}, is_started
        return files | {name: _damaged_file(name, files[name], rng)}, is_started

    def read_weights(made: tuple[dict[str, bytes], bool], folder: Path) -> object:
        files, is_started = made
        _put_all(folder, files)
        if "train.json" in files:
            parse(TrainConfig, read_settings(folder / "train.json"))
        if not is_started:
            return load_scorer(folder, data)
        trainer = prepare(data, cfg, "pretrain", folder, folder)
        trainer.checkpoint.load_state(trainer.network, trainer.optimizer, trainer.average, trainer.lazy)
        trainer.checkpoint.load_best(trainer.network)
        return trainer

    def shared(rng: random.Random) -> dict[str, bytes]:
        name = rng.choice(list(exported))
        is_table = name.endswith(".parquet") and Path(name).parent.name in tables
        if is_table and rng.random() < 0.5:
            return exported | {name: _damaged_table(pq.read_table(io.BytesIO(exported[name])), rng)}
        return exported | {name: _damaged_file(name, exported[name], rng)}

    def read_shared(made: dict[str, bytes], folder: Path) -> object:
        _put_all(folder, made)
        given = pa.table({"user_id": ["x", "x", "y"], "item_id": ["i3", "i20", "i16"]})
        return load_exported(folder, CFG).recommend(given, CFG)

    return [
        Target("training sets", 15, stored, read_stored),
        Target("checkpoints", 12, weights, read_weights),
        Target("exported", 3, shared, read_shared),
    ]


def _damaged_table(table: pa.Table, rng: random.Random) -> bytes:
    data = _parquet(mutated_table(table, rng) if rng.random() < 0.75 else table)
    return _damaged_parquet(data, rng) if rng.random() < 0.5 else data


def _damaged_file(name: str, data: bytes, rng: random.Random) -> bytes:
    if name.endswith(".json"):
        return _damaged_json(data, rng)
    if name.endswith(".safetensors") and rng.random() < 0.7:
        size = int.from_bytes(data[:8], "little")
        header = _damaged_json(data[8 : 8 + size], rng)
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    return mutated_bytes(data, rng, _MODEL_WORDS)


def _damaged_json(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.8:
        return json.dumps(mutated_tree(json.loads(data), rng)).encode()
    return mutated_bytes(data, rng, _MODEL_WORDS)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _put_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Let the folder hold these files and no others."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, data in files.items():
        _put(folder / name, data)
