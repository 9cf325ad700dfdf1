"""Ingest in memory, for tests that look at what came out."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_lake.errors import DataRefused
from data_lake.schemas import INTERACTIONS
from pipeline.config import DataConfig, SplitConfig
from pipeline.ingest.ingest import ingest

LEAVE_ONE_OUT = SplitConfig()


@dataclass(frozen=True)
class Whole:
    """What `ingest` returns, read."""

    interactions: pa.Table
    items: pa.Table
    queries: pa.Table
    rejects: pa.Table
    figures: dict[str, Any]
    warnings: tuple[str, ...]


def ingest_whole(
    cfg: DataConfig, split: SplitConfig = LEAVE_ONE_OUT, forgotten: frozenset[str] = frozenset(), rows: int = 1_000_000
) -> Whole:
    """Return everything as tables; parts of the interactions, of about `rows` actions, stand one behind the other."""
    with tempfile.TemporaryDirectory() as disk:
        try:
            found = ingest(cfg, split, forgotten, Path(disk), rows)
        except DataRefused as failure:
            failure.evidence = {name: pa.concat_tables(tables) for name, tables in failure.evidence.items()}
            raise
        interactions = pa.concat_tables([INTERACTIONS.tables[""].empty_table(), *found.interactions])
        rejects = pa.concat_tables(found.rejects)
    return Whole(interactions, found.items, found.queries, rejects, found.figures, found.warnings)
