"""Recommendations for histories that are given now, and items alike, by the model that is current in the lake."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_lake.errors import UserError
from data_lake.lake import Lake
from flows import text
from flows.plan import stale_artifacts
from flows.run import Run, RunRequest, open_run
from model.config import RecommendConfig
from model.data.histories import no_actions
from model.data.item_lists import read_ids
from model.recommend import Recommender, read_lists, write_lists
from pipeline.ingest.read_histories import read_histories

SHOWN_USERS = 20


def recommend(
    request: RunRequest, histories: Path | None, users: Path | None, domains: Sequence[str], **settings: Any
) -> pa.Table:
    """Return RECOMMENDATIONS for the histories of a file and the users of another, and say what was not used.

    settings: those of [recommend] that replace what the settings file says; null ones do not.
    """
    if histories is None and users is None:
        raise UserError(
            "Whom to recommend to? Give --histories FILE, --users FILE or both; `edt show recommendations` shows "
            "those of the last run."
        )
    with open_run(request) as run:
        given, left_out = no_actions(), dict[str, int]()
        if histories is not None:
            given, left_out = read_histories(histories, run.settings.data)
        ids = None if users is None else read_ids(users, "user_id")
        given_settings = {name: value for name, value in settings.items() if value is not None}
        cfg = run.settings.recommend.model_copy(update=given_settings)
        model = open_model(run, cfg)
        served = model.recommend(given, cfg, users=ids, allowed=read_lists(model.data, cfg), domains=domains)
    for reason, count in left_out.items():
        text.log(f"{histories}: rows left out as {reason}: {count:,}.")
    for note in served.notes():
        text.log(note)
    return served.recommendations


def open_model(run: Run, cfg: RecommendConfig) -> Recommender:
    """Return the current model with its training set; say where it is not of the current inputs."""
    if why := stale_artifacts(run).get("checkpoint"):
        text.log(f"The model is not of the current inputs: {why}.")
    return Recommender.load(*model_folders(run.lake), cfg)


def model_folders(lake: Lake) -> tuple[Path, Path]:
    """Return the folders of the training set that the current checkpoint was made from, and of the checkpoint."""
    checkpoint = lake.verified_path("checkpoint", full=False)
    data = lake.path_as_read("training_set", by="checkpoint")
    return data or lake.verified_path("training_set", full=False), checkpoint


def check_name(out: Path | None) -> None:
    """Refuse a name that tells no format of `write`."""
    if out is not None and out.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"--out {out}: in which format? Its name must end in .parquet or .jsonl.")


def write(table: pa.Table, path: Path) -> str:
    """Write RECOMMENDATIONS as Parquet or JSON lines, by the name's ending; return what there is to say of it."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, compression="zstd")
    else:
        write_lists(table, path)
    return f"{path}: {table.num_rows:,} recommendations for {len(table['user_id'].unique()):,} users"


def format_recommendations(table: pa.Table) -> str:
    """Return RECOMMENDATIONS as text for a person, of the first users where there are many."""
    users = table["user_id"].unique()
    shown = table.filter(pc.is_in(table["user_id"], value_set=users[:SHOWN_USERS]))
    more = (
        f"\n\n… and {len(users) - SHOWN_USERS:,} more users; --out FILE writes all." if len(users) > SHOWN_USERS else ""
    )
    return (text.table(shown.to_pylist()) or "No recommendation.") + more


def similar(request: RunRequest, item: str, top: int, domains: Sequence[str]) -> list[dict[str, Any]]:
    """Return the items whose learnt vectors are nearest to an item's, per domain; see `Recommender.similar`."""
    with open_run(request) as run:
        model = open_model(run, run.settings.recommend)
    if not model.is_told_apart(item):
        text.log(f"{item} has neither a text nor a training action: its vector is that of all such items.")
    return model.similar(item, top, domains)
