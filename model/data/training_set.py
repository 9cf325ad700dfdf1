"""A training set in memory: flat arrays, one span per user.

Users are named by their row (0-based) in every array here; the stored number of row r is r + 1.
Items keep their stored number: 1..n, 0 is padding, and every item array has n + 1 rows.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_lake.errors import UserError
from data_lake.schemas import SPLITS, TRAIN, TRAINING_SET, TRAINING_SET_VERSION
from data_lake.tables import empty, read_tables
from model.data.positions import check_positions
from model.data.sizes import check_domains, check_matrix, check_scopes, check_sizes
from model.data.streaming import KINDS, mapped, stream_profiles, stream_sequences

USERS_AT_ONCE = 65_536
POSITIONS_AT_ONCE = 2**22

TIMES = ("real", "order")
"""What a training set says of its times."""

DAY = 86_400_000
"""Milliseconds."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Profiles:
    """Vectors of one scope (a domain, or "all"), one row per user; zero where `present` is False."""

    vectors: Floats  # (users, P)
    present: Bools  # (users,)


@dataclass(frozen=True)
class TrainingSet:
    """Everything that the trainer, the evaluator and the recommender read.

    Positions of user row r are the span offsets[r]:offsets[r + 1] of `items`, `times`, `splits`, `synthetic` and
    `weights`.
    """

    domains: tuple[str, ...]
    candidates_seed: int

    offsets: Ints  # (users + 1,)
    items: NDArray[np.int32]  # (positions,)
    times: Ints  # (positions,) milliseconds
    splits: NDArray[np.int8]  # (positions,) index into SPLITS
    synthetic: Bools  # (positions,)
    weights: Floats  # (positions,) of synthetic items as targets

    user_ids: pa.Array  # (users,)
    user_keys: NDArray[np.uint64]  # (users,)

    item_ids: pa.Array  # (items + 1,) null at 0
    titles: pa.Array  # (items + 1,) null at 0 and where there is none
    item_keys: NDArray[np.uint64]  # (items + 1,)
    item_domain: NDArray[np.int16]  # (items + 1,) index into `domains`, -1 at 0
    train_actions: Ints  # (items + 1,)
    item_vectors: Floats  # (items + 1, T) zero where has_text is False; T may be 0
    has_text: Bools  # (items + 1,)

    profiles: dict[str, Profiles]  # by scope; empty without profiles

    has_real_times: bool = True
    """False: the data tells in which order each user acted and not when; all times are the same."""

    on_disk: bool = False
    """Whether what grows with positions and users is memory-mapped, and is not to be copied."""

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        return len(self.item_domain) - 1

    @cached_property
    def lengths(self) -> Ints:
        """Stored positions of each user, synthetic ones included."""
        return np.diff(self.offsets)

    @cached_property
    def domain_items(self) -> tuple[Ints, ...]:
        """Per domain its item numbers, rising. Scores of a domain stand in this order."""
        return tuple(np.flatnonzero(self.item_domain == d) for d in range(len(self.domains)))

    @cached_property
    def train_end(self) -> Ints:
        """Per user the number of stored positions up to and including the last training position."""
        ends = np.zeros(self.n_users, np.int64)
        for first in range(0, self.n_users, USERS_AT_ONCE):
            offsets = self.offsets[first : first + USERS_AT_ONCE + 1]
            lengths = np.diff(offsets)
            position = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], lengths) + 1
            position[self.splits[offsets[0] : offsets[-1]] != SPLITS.index(TRAIN)] = 0
            filled = np.flatnonzero(lengths)
            if len(filled):
                ends[first + filled] = np.maximum.reduceat(position, offsets[filled] - offsets[0])
        return ends

    def real_actions(self, splits: Iterable[str]) -> Iterator[tuple[Ints, Ints]]:
        """Yield times and items of the real actions of these splits, part by part."""
        numbers = [SPLITS.index(split) for split in splits]
        for start in range(0, len(self.items), POSITIONS_AT_ONCE):
            part = slice(start, start + POSITIONS_AT_ONCE)
            taken = np.isin(self.splits[part], numbers) & ~self.synthetic[part]
            if taken.any():
                yield self.times[part][taken], self.items[part][taken].astype(np.int64)

    @cached_property
    def trained_until(self) -> int:
        """Time of the latest real training action; 0 without one."""
        return max((int(times.max()) for times, _ in self.real_actions([TRAIN])), default=0)

    @cached_property
    def real_before(self) -> Ints:
        """(positions + 1,) real positions before each flat position, over all users."""
        before = self._long(len(self.items) + 1)
        before[0] = 0
        for start in range(0, len(self.items), POSITIONS_AT_ONCE):
            real = ~self.synthetic[start : start + POSITIONS_AT_ONCE]
            before[start + 1 : start + 1 + len(real)] = before[start] + np.cumsum(real)
        return before

    @cached_property
    def real_at(self) -> Ints:
        """(real positions + 1,) flat position of the k-th real one; at the end the number of positions."""
        at = self._long(int(self.real_before[-1]) + 1)
        at[-1] = len(self.items)
        for start in range(0, len(self.items), POSITIONS_AT_ONCE):
            real = np.flatnonzero(~self.synthetic[start : start + POSITIONS_AT_ONCE])
            first = self.real_before[start]
            at[first : first + len(real)] = start + real
        return at

    def _long(self, length: int) -> Ints:
        """Return room for so many numbers, where the others are."""
        return mapped(np.int64, (length,)) if self.on_disk else np.empty(length, np.int64)

    @cached_property
    def digest(self) -> str:
        """Hash of all that training reads, so that a run never goes on with other data."""
        sha = hashlib.sha256(repr((self.domains, self.candidates_seed, sorted(self.profiles))).encode())
        arrays = [
            self.offsets,
            self.items,
            self.times,
            self.splits,
            self.synthetic,
            self.weights,
            self.item_domain,
            self.train_actions,
            self.user_keys,
            self.item_keys,
        ]
        arrays += [self.item_vectors, *(self.profiles[scope].vectors for scope in sorted(self.profiles))]
        for array in arrays:
            sha.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
        if not self.has_real_times:
            sha.update(b"order")
        return sha.hexdigest()

    @cached_property
    def catalogue(self) -> str:
        """Hash of the item ids in their order, so that weights never score other items."""
        return hashlib.sha256("\0".join(self.item_ids.to_pylist()[1:]).encode()).hexdigest()

    @classmethod
    def load(cls, folder: str | Path, stream: bool = False) -> "TrainingSet":
        """Read the folder of a training set (what `edt path training_set` prints).

        With `stream`, sequences and profile vectors are copied, row group by row group, to nameless files in the
        temporary folder ($TMPDIR) and memory-mapped: the same numbers, of which only what is in use needs memory.
        """
        folder = Path(folder)
        if not (folder / "info").is_dir():
            raise UserError(f"{folder} is no training set: no folder 'info'. Pass what `edt path training_set` prints.")
        streamed = ("sequences", "profile_vectors") if stream else ()
        check_sizes(folder)
        tables = {name: read_tables(folder, TRAINING_SET, name) for name in TRAINING_SET.tables if name not in streamed}
        if not stream:
            return cls.from_tables(tables, str(folder))
        tables |= {name: empty(TRAINING_SET, name) for name in streamed}
        whole = cls.from_tables(tables | {"sequences": _no_sequences(tables["users"])}, str(folder))
        long = stream_sequences(folder, whole.n_users, whole.n_items)
        profiles = {
            scope: Profiles(vectors, present)
            for scope, (vectors, present) in stream_profiles(folder, whole.n_users, whole.domains).items()
        }
        return replace(
            whole, offsets=long["offsets"], items=long["items"], times=long["times"], splits=long["splits"],
            synthetic=long["synthetic"], weights=long["weights"], profiles=profiles, on_disk=True,
        )  # fmt: skip

    @classmethod
    def from_tables(cls, tables: dict[str, pa.Table], where: str = "training_set") -> "TrainingSet":
        """Build from the tables of TRAINING_SET; `where` is named in errors."""
        info = tables["info"].to_pylist()
        if len(info) != 1 or info[0]["contract_version"] != TRAINING_SET_VERSION:
            raise UserError(
                f"{where}: info must be one row of contract version {TRAINING_SET_VERSION}. Build it again."
            )
        domains = tuple(info[0]["domains"])
        check_domains(domains, where)
        if info[0]["times"] not in TIMES:
            raise UserError(f"{where}: info.times is {info[0]['times']!r}, not one of {TIMES}. Build it again.")
        if info[0]["candidates_seed"] < 0:
            raise UserError(f"{where}: info.candidates_seed {info[0]['candidates_seed']} is negative. Build it again.")
        users = _numbered(tables["users"], "user", where)
        sequences = _numbered(tables["sequences"], "user", where, count=users.num_rows)
        items = _numbered(tables["items"], "item", where)
        with_vector = _numbers(tables["item_vectors"], "item")
        vectors, has_text = _vectors(tables["item_vectors"], with_vector, items.num_rows + 1, f"{where}/item_vectors")
        if has_text[:1].any():
            raise UserError(f"{where}/item_vectors: a vector belongs to item 0, which is padding. Build it again.")
        lists = {name: sequences[name].combine_chunks() for name in KINDS}
        offsets = _offsets(lists["items"])
        for name, column in lists.items():
            if not np.array_equal(_offsets(column), offsets):
                raise UserError(f"{where}/sequences: lists of '{name}' and 'items' differ in length. Build it again.")
        flat = {name: column.flatten().to_numpy(zero_copy_only=False) for name, column in lists.items()}
        check_positions(flat, offsets, items.num_rows, where)
        if items.num_rows and pc.min(items["train_actions"]).as_py() < 0:
            raise UserError(f"{where}/items: 'train_actions' is negative. Build it again.")
        return cls(
            domains=domains,
            candidates_seed=info[0]["candidates_seed"],
            offsets=offsets,
            items=flat["items"].astype(np.int32, copy=False),
            times=flat["times"],
            splits=flat["splits"],
            synthetic=flat["synthetic"],
            weights=flat["weights"],
            user_ids=users["user_id"].combine_chunks(),
            user_keys=users["key"].to_numpy(),
            item_ids=_after_padding(items["item_id"]),
            titles=_after_padding(items["title"]),
            item_keys=np.concatenate([np.zeros(1, np.uint64), items["key"].to_numpy()]),
            item_domain=_item_domain(items["domain"], domains, where),
            train_actions=np.concatenate([[0], items["train_actions"].to_numpy()]),
            item_vectors=vectors,
            has_text=has_text,
            profiles=_profiles(tables["profile_vectors"], users.num_rows, domains, where),
            has_real_times=info[0]["times"] == "real",
        )


def _no_sequences(users: pa.Table) -> pa.Table:
    """Return an empty sequence for each user."""
    schema = TRAINING_SET.tables["sequences"]
    nothing = pa.ListArray.from_arrays(pa.array(np.zeros(users.num_rows + 1, np.int32)), pa.array([], pa.int8()))
    columns = [users["user"], *(nothing.cast(schema.field(name).type) for name in schema.names[1:])]
    return pa.table(columns, schema=schema)


def _numbers(table: pa.Table, column: str) -> Ints:
    numbers: Ints = table[column].to_numpy().astype(np.int64)
    return numbers


def _numbered(table: pa.Table, column: str, where: str, count: int | None = None) -> pa.Table:
    """Return the table in rising order of `column`, which must hold 1..n without a gap."""
    numbers = _numbers(table, column)
    if not np.array_equal(numbers, np.arange(1, len(numbers) + 1)):
        order = np.argsort(numbers, kind="stable")
        table, numbers = table.take(pa.array(order)), numbers[order]
    if not np.array_equal(numbers, np.arange(1, len(numbers) + 1)) or count not in (None, len(numbers)):
        raise UserError(
            f"{where}: '{column}' must run from 1 to {count or len(numbers)} without a gap. Build it again."
        )
    return table


def _offsets(lists: pa.ListArray) -> Ints:
    offsets: Ints = lists.offsets.to_numpy().astype(np.int64)
    offsets -= offsets[:1]
    return offsets


def _after_padding(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.nulls(1, column.type), *column.chunks])


def _item_domain(column: pa.ChunkedArray, domains: tuple[str, ...], where: str) -> NDArray[np.int16]:
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    unknown = [name for name in names if name not in domains]
    if unknown:
        raise UserError(f"{where}/items: domain '{unknown[0]}' is not in info.domains {list(domains)}. Build it again.")
    number = np.array([domains.index(name) for name in names], np.int16)
    codes = encoded.indices.to_numpy()
    return np.concatenate([np.full(1, -1, np.int16), number[codes]])


def _vectors(table: pa.Table, rows: Ints, height: int, where: str) -> tuple[Floats, Bools]:
    """Place the table's vectors at `rows` of a zero matrix; also return which rows have one."""
    column = table["vector"].combine_chunks()
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    width = column.type.list_size if valid.any() else 0
    check_matrix(height, width, int(valid.sum()), where)
    matrix, present = np.zeros((height, width), np.float32), np.zeros(height, np.bool_)
    if not width:
        return matrix, present
    if len(rows) and (rows.min() < 0 or rows.max() >= height):
        raise UserError(f"{where}: a vector belongs to a number outside 1..{height - 1}. Build the training set again.")
    given = column.drop_null().flatten().to_numpy().reshape(-1, width)
    if not np.isfinite(given).all():
        raise UserError(f"{where}: a vector holds what is no number. Build the training set again.")
    matrix[rows[valid]] = given
    present[rows[valid]] = True
    return matrix, present


def _profiles(table: pa.Table, n_users: int, domains: tuple[str, ...], where: str) -> dict[str, Profiles]:
    encoded = table["scope"].combine_chunks().dictionary_encode()
    numbers = encoded.indices.to_numpy()
    profiles = {}
    check_scopes(encoded.dictionary.to_pylist(), domains, where)
    for number, scope in sorted(enumerate(encoded.dictionary.to_pylist()), key=lambda pair: pair[1]):
        part = table.filter(pa.array(numbers == number))
        vectors, present = _vectors(part, _numbers(part, "user") - 1, n_users, f"{where}/profile_vectors")
        if present.any():
            profiles[scope] = Profiles(vectors, present)
    return profiles
