"""Read the files that [data] and [split] name: ids and times as they are compared, and what each row said."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from data_lake.errors import UserError, shortened
from pipeline.config import ColumnsConfig, DataConfig, ItemColumnsConfig, listed
from pipeline.ingest import readers
from pipeline.ingest.formats import BY_COLUMNS, FORMATS
from pipeline.ingest.ids import all_kept_as_floats, read_ids
from pipeline.ingest.refused import FILE, Refused
from pipeline.ingest.times import number_unit, read_times

NO_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""The timestamp of every action where `times` is "order": who compares or ages timestamps finds no difference."""

IDS = ("user_id", "item_id", "domain")

Files = list[tuple[str | None, Path]]
"""Files with the domain of all their rows; None: a column tells it."""


@dataclass(frozen=True)
class _File:
    """A file, which of its columns are read as what ({our name: its name}), and the domain of all its rows."""

    path: Path
    columns: dict[str, str]
    domain: str | None


def names(cfg: DataConfig) -> tuple[ColumnsConfig, ItemColumnsConfig, str]:
    """Return the columns of the interactions, the columns of the items and the unit of times, by the format."""
    if cfg.format != BY_COLUMNS:
        known = FORMATS[cfg.format]
        columns = ColumnsConfig(
            user_id=known.user_id, item_id=known.item_id, timestamp=known.timestamp, rating=known.rating
        )
        further = (cfg.item_columns or cfg.columns).text
        return columns, ItemColumnsConfig(item_id=known.item_id, text=further), known.timestamp_unit
    return cfg.columns, cfg.item_columns or _as_item_columns(cfg.columns), cfg.timestamp_unit


def read_items(cfg: DataConfig, refused: Refused) -> pl.DataFrame:
    """Return raw_<our name> of the items' columns, `item_id` and `domain` as they are compared, `file` and `line`."""
    columns = names(cfg)[1]
    wanted = {"item_id": columns.item_id, "domain": columns.domain, "title": columns.title}
    wanted |= {f"text_{number}": name for number, name in enumerate(columns.text)}
    named = columns.model_fields_set | wanted.keys() - {"title", "domain"}
    parts = []
    for domain, path in listed(cfg.items):
        needed = named | ({"domain"} if domain is None else set())
        parts += list(_batches(_find_columns(path, domain, wanted, needed, "item"), wanted, "item", refused))
    return pl.concat(parts, how="diagonal_relaxed")


def read_actions(cfg: DataConfig, files: Files, kind: str, refused: Refused) -> Iterator[pl.DataFrame]:
    """Yield, batch by batch, raw_<our name> of the columns, the ids as they are compared, `time`, `file` and `line`.

    The columns of all files are looked at before any is read.
    """
    columns, _, unit = names(cfg)
    is_timed = cfg.times == "real"
    wanted = {key: getattr(columns, key) for key in ("user_id", "item_id", "domain", "timestamp", "position", "rating")}
    needed = columns.model_fields_set | {"user_id", "item_id", "timestamp"}
    if not is_timed:
        del wanted["timestamp"]
    if kind == "query":
        needed -= {"rating"}
    found = [_find_columns(path, domain, wanted, needed, kind) for domain, path in files]
    for file in found:
        of_numbers = None
        for rows in _batches(file, wanted, kind, refused):
            if not is_timed:
                yield rows.with_columns(pl.lit(NO_TIME).dt.cast_time_unit("ms").alias("time"))
                continue
            of_numbers = of_numbers or number_unit(rows["raw_timestamp"], unit)
            yield rows.with_columns(read_times(rows["raw_timestamp"], unit, of_numbers).alias("time"))


def has_positions(cfg: DataConfig, files: Files) -> bool:
    """Say whether any row of the files tells a position; reads no further than to the first."""
    name = names(cfg)[0].position
    return any(
        read_positions(rows.good[name]).count() > 0
        for _, path in files
        if name in readers.columns_of(path)
        for rows in readers.batches(path, [name])
    )


def in_order_by(actions: pl.DataFrame, cfg: DataConfig, is_positioned: bool) -> pl.DataFrame:
    """Add `order`, by which actions at one time are sorted before file and line; where these alone decide, nothing."""
    ties = cfg.ties
    if ties == "auto":
        ties = "position" if is_positioned else "file"
    if ties == "position" and not is_positioned:
        raise UserError(
            "[data] ties = 'position', but the interactions or queries have none. Set [data.columns] position."
        )
    if ties == "position":
        return actions.with_columns(read_positions(actions["raw_position"]).alias("order"))
    if ties == "shuffle":
        hashed = pl.concat_str("user_id", "item_id", separator="\n").hash(cfg.seed)
        return actions.with_columns(hashed.alias("order"))
    return actions


def read_positions(raw: pl.Series) -> pl.Series:
    """Return positions as numbers, null where there is none."""
    return raw.cast(pl.Float64, strict=False).fill_nan(None)


def _as_item_columns(columns: ColumnsConfig) -> ItemColumnsConfig:
    given = {key: getattr(columns, key) for key in ItemColumnsConfig.model_fields if key in columns.model_fields_set}
    return ItemColumnsConfig(**given)


def _find_columns(path: Path, domain: str | None, wanted: dict[str, str], needed: Set[str], kind: str) -> _File:
    wanted = {ours: theirs for ours, theirs in wanted.items() if ours != "domain" or domain is None}
    there = readers.columns_of(path)
    for ours, theirs in wanted.items():
        if ours in needed and theirs not in there:
            raise UserError(_no_column(path, ours, theirs, there, kind))
    return _File(path, {ours: theirs for ours, theirs in wanted.items() if theirs in there}, domain)


def _batches(file: _File, wanted: dict[str, str], kind: str, refused: Refused) -> Iterator[pl.DataFrame]:
    """Yield a file's rows: raw_<our name> of all `wanted`, ids and domain as they are compared, file and line."""
    number = pl.lit(refused.number(file.path), FILE).alias("file")
    floats: Set[str] | None = None
    columns = [f"raw_{ours}" for ours in wanted] + [name for name in IDS if name in wanted]
    for rows in readers.batches(file.path, list(dict.fromkeys(file.columns.values()))):
        refused.rows[kind] += len(rows.good) + len(rows.bad)
        if len(rows.bad):
            refused.add(rows.bad.with_columns(number), kind)
        frame = rows.good.select(pl.col(theirs).alias(f"raw_{ours}") for ours, theirs in file.columns.items())
        frame = frame.with_columns(rows.good["line"], number)
        if file.domain is not None:
            frame = frame.with_columns(raw_domain=pl.lit(file.domain))
        if floats is None:
            floats = _kept_as_floats(file, rows.good)
        ids = [name for name in IDS if f"raw_{name}" in frame.columns]
        frame = frame.with_columns(read_ids(frame[f"raw_{name}"], name in floats).alias(name) for name in ids)
        missing = [name for name in columns if name not in frame.columns]
        yield frame.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)


def _kept_as_floats(file: _File, first: pl.DataFrame) -> Set[str]:
    """Return our names of the ids that are whole numbers kept as floats in all rows of a file."""
    found = {ours: file.columns[ours] for ours in IDS if ours in file.columns}
    found = {ours: theirs for ours, theirs in found.items() if all_kept_as_floats(first[theirs])}
    if found:
        for rows in readers.batches(file.path, list(dict.fromkeys(found.values()))):
            found = {ours: theirs for ours, theirs in found.items() if all_kept_as_floats(rows.good[theirs])}
    return found.keys()


def _no_column(path: Path, ours: str, theirs: str, there: list[str], kind: str) -> str:
    nearest = get_close_matches(theirs.lower(), [name.lower() for name in there], n=1, cutoff=0.5)
    near = next((name for name in there if [name.lower()] == nearest), None)
    section = "[data.item_columns]" if kind == "item" else "[data.columns]"
    key = "text" if ours.startswith("text_") else ours
    hint = f"; the nearest is '{near}'" if near else ""
    also = ", or give one file per domain" if ours == "domain" else ""
    return f"{path}: no column '{theirs}' for {key}{hint}. It has {shortened(there)}. Set {section} {key}{also}."
