"""What a stage's work is given: verified inputs, folders for its outputs, finished shards of a killed run, caches."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from data_lake.files import put_file, temporary
from data_lake.keyed_cache import KeyedCache
from data_lake.manifest import Output, measure
from data_lake.progress import Work
from data_lake.schemas import ARTIFACTS, Artifact
from data_lake.stores import Store, path_as_read, verified_path
from data_lake.tables import (
    check,
    check_key,
    empty,
    paths_of,
    read_part,
    read_tables,
    write_each,
    write_parts,
    write_stream,
)

WORK, SHARDS = ".work-", ".shards-"
"""How the names of the folders begin that outlive a killed run; the fingerprint follows."""

_FIGURES = b"figures"

OnMade = Callable[[int], None]
"""Gets the number of a shard that is finished."""

Helpers = Callable[[Sequence[int], OnMade], None]
"""Makes shards, named by their numbers, in the folder where the stage keeps its finished ones."""

Make = Callable[[pa.Table], pa.Table]
"""Makes rows of an artifact of others."""

Review = Callable[[Iterable[pa.Table]], Make]
"""Reads all finished shards, and returns what changes values in each of them."""


def unchanged(shards: Iterable[pa.Table]) -> Make:
    """Leave every shard as it is, unread."""
    return lambda shard: shard


class Part(NamedTuple):
    """A part of an artifact that is made in shards: its `rows`, and what opens what makes it of some of them.

    Both read what they need when they are called, so that no more than one part is in memory.
    """

    rows: Callable[[], pa.Table]
    open: Callable[[], Make]

    @classmethod
    def of(cls, rows: pa.Table, make: Make) -> "Part":
        """Return the one part of an artifact that is small enough for rows to be at hand."""
        return cls(lambda: rows, lambda: make)


class _Shard(NamedTuple):
    part: int
    start: int
    rows: int
    path: Path


class ShardsMade(Exception):
    """The shards that a run was opened for are finished: there is nothing else to do in it."""


class StageIO:
    """What one run of a stage is given: its inputs, its outputs and the dataset's caches.

    `stage` is the stage's name; it may touch the artifacts in `reads` and `makes` and no others (ValueError).
    `helpers` make shards elsewhere, first. With `only`, a run is one of those helpers: it makes these shards alone, and
    ends by raising ShardsMade.
    `is_rebuild` says that a person asked for the outputs to be made anew.
    """

    def __init__(
        self, store: Store, stage: str, reads: Sequence[str], makes: Sequence[str], fingerprint: str,
        helpers: Helpers | None = None, only: Collection[int] | None = None, is_rebuild: bool = False,
    ) -> None:  # fmt: skip
        self._store, self._stage, self.fingerprint = store, stage, fingerprint
        self._helpers, self._only, self.is_rebuild = helpers, only, is_rebuild
        self._reads, self._makes = reads, makes
        self.work = Work(stage)
        """How far the stage is; the lake shows it."""
        self.started, self._clock = datetime.now(UTC), time.monotonic()
        self._inputs: dict[str, Path] = {}
        self._folders: dict[str, Path] = {}
        self._written: dict[str, set[str]] = {}
        self._figures: dict[str, Any] = {}
        self._scratch: list[Path] = []

    def read(self, artifact: str, table: str = "", columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table of an input; raise UserError where its files' hashes or its schema are wrong."""
        return read_tables(self.input(artifact), ARTIFACTS[artifact], table, columns)

    def read_parts(self, artifact: str, table: str = "", columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the parts of a table of an input, each as `read` returns the whole.

        Parts that were written by `write_parts` hold each user in one of them: in that of the same number of another
        artifact, which was made from it.
        """
        return self.each_of(self.parts(artifact, table, columns))

    def parts(
        self, artifact: str, table: str = "", columns: Sequence[str] | None = None
    ) -> list[Callable[[], pa.Table]]:
        """Return what reads each of the parts that `read_parts` yields."""
        numbers = range(self.count_parts(artifact, table))
        return [partial(self.read_part, artifact, number, table, columns) for number in numbers]

    def each_of(self, parts: Sequence[Callable[[], pa.Table]]) -> Iterator[pa.Table]:
        """Yield what each of `parts` reads, and count it as done when the next is asked for."""
        self.work.begin(len(parts), "parts")
        for part in parts:
            with self.work.part(1):
                yield part()

    def read_part(self, artifact: str, number: int, table: str = "", columns: Sequence[str] | None = None) -> pa.Table:
        """Return one of the parts that `read_parts` yields, the first of which is number 0."""
        known = ARTIFACTS[artifact]
        return read_part(paths_of(self.input(artifact), known, table)[number], known, table, columns)

    def count_parts(self, artifact: str, table: str = "") -> int:
        """Return how many parts a table of an input has."""
        return len(paths_of(self.input(artifact), ARTIFACTS[artifact], table))

    def input(self, artifact: str) -> Path:
        """Return the folder of an input; raise UserError where its files' hashes are wrong."""
        if artifact not in self._reads:
            raise ValueError(f"stage {self._stage} does not say that it reads {artifact}")
        if artifact not in self._inputs:
            self._inputs[artifact] = verified_path(self._store, artifact, full=True)
        return self._inputs[artifact]

    def current(self, artifact: str) -> Path | None:
        """Return the folder of what is current of an output, which this run would replace; None where there is none.

        Raises UserError where its files' hashes are wrong.
        """
        self._output(artifact)
        return verified_path(self._store, artifact, full=True) if self._store.manifest(artifact) else None

    def current_input(self, artifact: str, of: str) -> Path | None:
        """Return the folder of an input as the current output `of` was made from it; None where it is kept no more."""
        self._output(of)
        return path_as_read(self._store, artifact, of)

    def write(self, artifact: str, table: pa.Table, name: str = "") -> None:
        """Check and write a table of an output; a second call for the same table replaces it. Raises SchemaError."""
        checked = check(table, self._output(artifact), name)
        write_parts(checked, self._empty_folder(artifact, name))
        self._written.setdefault(artifact, set()).add(name)

    def write_stream(self, artifact: str, tables: Iterable[pa.Table], name: str = "") -> None:
        """Check and write rows of a table of an output, some behind the others, in files of equal length.

        There is at least one of `tables`, whose vectors are of one length; no row's key may stand in two of them.
        """
        schema = self._output(artifact)
        checked = (check(table, schema, name) for table in tables)
        first = next(checked)
        write_stream(chain([first], checked), first.schema, self._empty_folder(artifact, name))
        self._written.setdefault(artifact, set()).add(name)

    def write_parts(self, artifact: str, tables: Iterable[pa.Table], name: str = "") -> None:
        """Check and write tables of an output, each as a part of its own; no row's key may stand in two of them."""
        schema = self._output(artifact)
        write_each((check(table, schema, name) for table in tables), self._empty_folder(artifact, name))
        self._written.setdefault(artifact, set()).add(name)

    def scratch(self) -> Path:
        """Return a new empty folder on the lake's disk, which goes when the stage ends."""
        folder = temporary(self._store.home / self._makes[0])
        folder.mkdir()
        self._scratch.append(folder)
        return folder

    def folder(self, artifact: str) -> Path:
        """Return the unpublished folder of an output, for files that the stage writes by itself.

        After a kill, the next run with the same fingerprint gets the same folder with the files that were left in it.
        """
        self._output(artifact)
        if artifact in self._written:
            raise ValueError(f"ask for the folder of {artifact} before writing a table of it")
        folder = self._store.home / artifact / f"{WORK}{self.fingerprint}"
        folder.mkdir(parents=True, exist_ok=True)
        self._folders[artifact] = folder
        return folder

    def sharded(
        self, artifact: str, parts: Sequence[Part], keys: Sequence[str], rows_per_shard: int, review: Review = unchanged
    ) -> None:
        """Make the parts of an artifact, `rows_per_shard` rows at a time; check and write each part as a file.

        `keys` are the columns that identify a row of a part; none stands in two parts. A finished shard is kept under
        the hash of its rows' keys with the figures counted while it was made; a later run with the same fingerprint
        makes only the others. Once all are there, `review` may read them, and returns what changes values in each
        before it is published. Raises SchemaError where a shard breaks the artifact's schema, or a key stands in two
        shards of a part.
        """
        self._output(artifact)
        maker = _Maker(parts)
        shards = self._plan(artifact, maker, keys, rows_per_shard)
        there = [shard.path.exists() for shard in shards]
        missing = [number for number, is_there in enumerate(there) if not is_there]
        if self._only is not None:
            self._make_only(artifact, maker, shards)
        if self._helpers and missing:
            self.work.begin(sum(shards[number].rows for number in missing), "rows")
            self._helpers(missing, lambda number: self.work.advance(shards[number].rows))
        self.work.begin(sum(shard.rows for shard in shards), "rows")
        for shard, is_there in zip(shards, there, strict=True):
            table = _read_shard(shard.path)
            resumed = is_there and table is not None
            with self.work.part(shard.rows):
                if table is None:
                    table = self._make_shard(artifact, shard, maker)
            _add(self._figures, json.loads((table.schema.metadata or {}).get(_FIGURES, b"{}")))
            self.count(shards=1, shards_resumed=int(resumed))
        paths = [[shard.path for shard in shards if shard.part == number] for number in range(len(parts))]
        self._join(artifact, paths, review)

    def _plan(self, artifact: str, maker: "_Maker", keys: Sequence[str], rows_per_shard: int) -> list[_Shard]:
        """Return the shards of all parts, in order."""
        folder = self._store.home / artifact / f"{SHARDS}{self.fingerprint}"
        shards = []
        for number in range(len(maker.parts)):
            rows = maker.rows(number)
            for start in range(0, rows.num_rows, rows_per_shard):
                chunk = rows.slice(start, rows_per_shard)
                path = folder / f"{_shard_id(chunk, keys)}.parquet"
                shards.append(_Shard(number, start, chunk.num_rows, path))
        return shards

    def _make_only(self, artifact: str, maker: "_Maker", shards: Sequence[_Shard]) -> NoReturn:
        """Make the shards that a run was opened for."""
        for number in sorted(self._only or ()):
            if not shards[number].path.exists():
                self._make_shard(artifact, shards[number], maker)
        raise ShardsMade

    def discard_shards(self, unwanted: Callable[[pa.Table], bool]) -> None:
        """Remove the finished shards that are `unwanted`, so that the next run makes them again."""
        for artifact in self._makes:
            for path in (self._store.home / artifact / f"{SHARDS}{self.fingerprint}").glob("*.parquet"):
                shard = _read_shard(path)
                if shard is not None and unwanted(shard):
                    path.unlink()

    def _join(self, artifact: str, parts: Sequence[Sequence[Path]], review: Review) -> None:
        """Write the shards of each part, one after the other: only one of them is in memory."""
        known, paths = self._output(artifact), [path for part in parts for path in part]
        schemas = [pq.read_schema(path).remove_metadata() for path in paths] or [empty(known).schema]
        schema = pa.unify_schemas(schemas, promote_options="permissive")

        def tables(paths: Sequence[Path]) -> Iterator[pa.Table]:
            return (pq.ParquetFile(path, page_checksum_verification=True).read().cast(schema) for path in paths)

        change, folder = review(tables(paths)), self._empty_folder(artifact, "")
        for number, part in enumerate(parts):
            if part and (key := known.key.get("")):
                check_key(pa.concat_tables([pq.read_table(path, columns=list(key)) for path in part]), known)
            write_stream(map(change, tables(part)), schema, folder, sys.maxsize, first=number)
        self._written.setdefault(artifact, set()).add("")

    def _empty_folder(self, artifact: str, name: str) -> Path:
        folder = self._folders.get(artifact) or temporary(self._store.home / artifact)
        self._folders[artifact] = folder
        for path in (folder / name).glob("*.parquet"):
            path.unlink()
        return folder / name

    def keyed_cache(self, name: str) -> KeyedCache:
        """Return the dataset's cache of this name, which every run shares."""
        cache = self._store.keyed_cache(name)
        cache.merges = self._only is None
        return cache

    def count(self, **figures: float | str | Mapping[str, float | str]) -> None:
        """Add to the figures of the manifest: numbers, or numbers by reason. A text replaces the one before it."""
        _add(self._figures, figures)

    @property
    def folders(self) -> dict[str, Path]:
        """The unpublished folder of each output so far."""
        return self._folders

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self._clock

    @property
    def figures(self) -> dict[str, Any]:
        """The figures counted so far."""
        return self._figures

    def finish(self, artifacts: Iterable[str]) -> dict[str, tuple[Path, Output]]:
        """Return the outputs' folders and files; raise ValueError or SchemaError for one that is incomplete."""
        finished = {}
        for name in artifacts:
            tables = set(ARTIFACTS[name].tables)
            missing = tables - self._written.get(name, set())
            if name not in self._folders:
                raise ValueError(f"stage {self._stage} says that it makes {name}, but wrote nothing of it")
            for table in sorted(missing):  # those that the stage wrote as files
                read_tables(self._folders[name], ARTIFACTS[name], table)
            finished[name] = (self._folders[name], measure(self._folders[name]))
        return finished

    def close(self) -> None:
        """Remove scratch folders and unpublished outputs, except those that a later run resumes from."""
        for folder in (*self._folders.values(), *self._scratch):
            if not folder.name.startswith(WORK):
                shutil.rmtree(folder, ignore_errors=True)

    def _output(self, artifact: str) -> Artifact:
        if artifact not in self._makes:
            raise ValueError(f"stage {self._stage} does not say that it makes {artifact}")
        return ARTIFACTS[artifact]

    def _make_shard(self, artifact: str, shard: _Shard, maker: "_Maker") -> pa.Table:
        total, self._figures = self._figures, {}
        try:
            table = check(maker.make(shard), self._output(artifact))
            figures = self._figures
        finally:
            self._figures = total
        table = table.replace_schema_metadata({_FIGURES: json.dumps(figures).encode()})
        written = temporary(shard.path.parent)
        pq.write_table(table, written, compression="zstd", write_page_checksum=True)
        put_file(written, shard.path)
        return table


class _Maker:
    """Makes shards of one part after the other, of which it holds the last one that was asked for."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._rows: tuple[int, pa.Table] | None = None
        self._opened: Make | None = None

    def rows(self, part: int) -> pa.Table:
        """Return the rows of a part; those of the last one are not read again."""
        if self._rows is None or self._rows[0] != part:
            self._rows = self._opened = None  # before the next one is read
            self._rows = part, self.parts[part].rows()
        return self._rows[1]

    def make(self, shard: _Shard) -> pa.Table:
        rows = self.rows(shard.part)
        if self._opened is None:
            self._opened = self.parts[shard.part].open()
        return self._opened(rows.slice(shard.start, shard.rows))


def _shard_id(chunk: pa.Table, keys: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(chunk.select(list(keys)).to_pydict(), default=str).encode()).hexdigest()[:32]


def _read_shard(path: Path) -> pa.Table | None:
    """Return a finished shard; None where there is none, or where the file is corrupted."""
    if not path.exists():
        return None
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowInvalid, OSError):
        return None


def _add(total: dict[str, Any], figures: Mapping[str, Any]) -> None:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value)
        elif isinstance(value, str):
            total[name] = value
        else:
            total[name] = total.get(name, 0) + value
