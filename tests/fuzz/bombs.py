"""Files that are small, or of one long piece, and would take the machine's memory or time: one of each kind."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_lake import manifest
from flows.settings import load_settings
from model.data.training_set import TrainingSet
from model.settings import read_settings
from pipeline.ingest import readers
from pipeline.llm.completion import read_completion
from pipeline.llm.endpoint import Answer
from pipeline.llm.reading import read_reply
from tests.fuzz.targets import REQUESTS
from tests.model.conftest import tiny_tables

GIGABYTE = 1 << 30
DEEP = 1_000_000


@dataclass(frozen=True)
class Bomb:
    """What is made in a folder, and what reads it."""

    name: str
    make: Callable[[Path], Any]
    read: Callable[[Any], object]


def bombs(size: int = GIGABYTE) -> list[Bomb]:
    """Return one of each kind; what is long or often there has `size` bytes or values."""
    megabyte = b"x" * (1 << 20)
    long, lines = [megabyte] * (size >> 20), [megabyte[:999] + b"\n"] * (size // 1000)
    packed = [gzip.compress(megabyte)] * (size >> 20)
    many = b",".join(b"c%d" % number for number in range(1_000_000))
    request = REQUESTS[0][0]
    raw: dict[str, Sequence[bytes]] = {
        "gz bomb.csv.gz": [gzip.compress(b"a,b\n"), *packed],
        "gz bomb.jsonl.gz": [gzip.compress(b'{"a": 1}\n'), *packed],
        "long line.csv": [b"a,b\n1,", *long, b"\n1,2\n"],
        "long line.tsv": [b"a\tb\n1\t", *long, b"\n1\t2\n"],
        "long line.jsonl": [b'{"a": "', *long, b'"}\n{"a": 1}\n'],
        "long first line.csv": long,
        "open quote.csv": [b'a,b\n1,"', *lines],
        "a million columns.csv": [many, b"\n", many],
        "a million fields.csv": [b"a,b\n", b"," * 1_000_000, b"\n1,2\n"],
        "nested line.jsonl": [b'{"a": ', b"[" * DEEP, b"]" * DEEP, b'}\n{"a": 1}'],
        "nested dict.jsonl": [b"{'a': ", b"(" * 60_000, b")" * 60_000, b"}\n{'a': 1}"],
        "minus signs.jsonl": [b"{'a': ", b"-" * 100_000, b"1}\n{'a': 1}"],
    }
    settings = {
        "nested array.toml": b"a = " + b"[" * 100_000,
        "nested table.toml": b"a = " + b"{a=" * 100_000,
        "dotted key.toml": b"a." * 100_000 + b"a = 1",
    }
    return [
        *(Bomb(name, _file(name, *parts), _read) for name, parts in raw.items()),
        *(Bomb(name, _file(name, text), load_settings) for name, text in settings.items()),
        Bomb("100,000 columns.parquet", partial(_many_columns, min(100_000, size >> 9)), _read),
        Bomb("a value a billion times.parquet", partial(_repeated, size >> 20), _read),
        Bomb("nested override", _file("a.toml", b""), lambda path: load_settings(path, ["a=" + "[" * 100_000])),
        Bomb("nested.json", _file("a.json", b"[" * DEEP), read_settings),
        Bomb("nested manifest.json", _file(manifest.MANIFEST, b"[" * DEEP), lambda path: manifest.load(path.parent)),
        Bomb("nested reply", lambda _: "{" * DEEP, lambda text: read_reply(text, request)),
        Bomb("long reply of blanks", lambda _: "```" + " " * (1 << 24) + "x", lambda text: read_reply(text, request)),
        Bomb("long reply of thoughts", lambda _: "<think>" * 1_000_000, lambda text: read_reply(text, request)),
        Bomb("nested completion", lambda _: Answer(200, b"[" * DEEP), lambda a: read_completion(a.content, request)),
        Bomb("long history", partial(_long_history, size >> 6), TrainingSet.load),
    ]


def _file(name: str, *parts: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with (folder / name).open("wb") as file:
            file.writelines(parts)
        return folder / name

    return make


def _read(path: Path) -> object:
    return readers.read(path, readers.columns_of(path)[:5])


def _many_columns(count: int, folder: Path) -> Path:
    table = pa.table([pa.array([1])] * count, names=[f"c{number}" for number in range(count)])
    pq.write_table(table, folder / "many.parquet")
    return folder / "many.parquet"


def _repeated(parts: int, folder: Path) -> Path:
    part = pa.table({"a": np.zeros(1 << 20, np.int64)})
    with pq.ParquetWriter(folder / "zeros.parquet", part.schema, compression="zstd") as writer:
        for _ in range(parts):
            writer.write_table(part)
    return folder / "zeros.parquet"


def _long_history(length: int, folder: Path) -> Path:
    """Write a training set in which each of 16 users has a history of `length` actions, each the same."""
    part = pa.array(np.zeros(length, np.int8))
    splits = pa.table({"splits": pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), part)})
    for name, table in tiny_tables().items():
        (folder / name).mkdir()
        parts = [splits] * 16 if name == "sequences" else [table]
        with pq.ParquetWriter(folder / name / "part-0.parquet", parts[0].schema, compression="zstd") as writer:
            for each in parts:
                writer.write_table(each)
    return folder
