"""What was trained, as a folder to take elsewhere: the model, vectors with an index, lists, and cards."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_lake.errors import UserError
from data_lake.files import put_folder, temporary
from data_lake.lake import Lake
from data_lake.progress import counted, progress
from flows import text
from flows.cards import dataset_card, model_card
from flows.recommend import model_folders, open_model
from flows.run import RunRequest, open_run
from model.evaluation.scoring import NetworkScorer
from model.exported import MODEL_TYPE, export_model, item_points, user_points
from model.history_scorer import export_onnx, export_scorer
from model.recommend import write_lists
from pipeline.vectors.catalogue import vector_column

KINDS = {".pt2": "torch.export", ".onnx": "ONNX"}
"""Of the programs, by the endings of their names."""
NEAREST = 10
LINKS, LOOKED_AT = 32, (200, 256)
"""Of an index that is a graph: links of an item, and candidates while it is built and while it is searched."""
CHECKED_USERS = 1000
"""Users, per domain, by whose vectors the recall of an index is measured."""


def export(request: RunRequest, out: Path | None, with_scorers: bool = False) -> list[str]:
    """Write the folder, by default exported/DATASET; return a line about each part of it.

    `with_scorers` adds a program per domain, of torch.export and, where its packages are installed, of ONNX. Raises
    UserError where a folder of that name holds something else.
    """
    with open_run(request) as run:
        out = out or Path("exported") / run.settings.dataset
        _check_free(out)
        model = open_model(run, run.settings.recommend)
        data, checkpoint = model_folders(run.lake)
        written = temporary(out.absolute().parent)
        try:
            export_model(written, data, checkpoint, model)
            (written / "README.md").write_text(model_card(run.lake, run.settings), encoding="utf-8")
            (written / "DATASET_CARD.md").write_text(dataset_card(run.lake), encoding="utf-8")
            vectors, indexes = _write_vectors(model.scorer, written / "vectors", run.settings.enrich.exact_up_to)
            lists = _write_recommendations(run.lake, written / "recommendations")
            scorers = _write_scorers(model.scorer, written / "scorers") if with_scorers else []
            put_folder(written, out.absolute())
        finally:
            if written.exists():
                shutil.rmtree(written)
    lines = [f"{out}: the model, for llm_edt.load({str(out)!r}), README.md and DATASET_CARD.md"]
    lines += [f"{out / 'vectors'}: {vectors}", *(f"{out / 'vectors' / line}" for line in indexes)]
    lines += [f"{out / 'recommendations'}: {line}" for line in lists]
    return [*lines, *(f"{out / 'scorers' / name}: {KINDS[Path(name).suffix]}, {domain}" for name, domain in scorers)]


def _check_free(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    about = out / "config.json"
    if not about.is_file() or json.loads(about.read_text(encoding="utf-8")).get("model_type") != MODEL_TYPE:
        raise UserError(f"{out} is there already and no earlier export. Give another --out.")


def _write_vectors(scorer: NetworkScorer, folder: Path, exact_up_to: int) -> tuple[str, list[str]]:
    """Write items.parquet and users.parquet, whose vectors multiply to scores, and an index per domain with its recall.

    Return a line about the vectors and one about each index, which is exact for up to `exact_up_to` items.
    """
    folder.mkdir()
    data, parts, indexes, users = scorer.data, list[pa.Table](), list[dict[str, Any]](), 0
    has_faiss = importlib.util.find_spec("faiss") is not None
    width = scorer.vectors.shape[1] + 1
    vector = pa.list_(pa.float32(), width)
    schema = pa.schema({"user_id": pa.string(), "domain": pa.string(), "vector": vector}.items())
    with (
        progress("vectors", data.n_users * len(data.domains), "users") as work,
        pq.ParquetWriter(folder / "users.parquet", schema, compression="zstd") as writer,
    ):
        for number, (domain, columns) in enumerate(zip(data.domains, data.domain_items, strict=True)):
            points = item_points(scorer, domain).numpy()
            rows = pa.array(columns)
            parts.append(pa.table({
                "item_id": data.item_ids.take(rows), "domain": [domain] * len(rows), "title": data.titles.take(rows),
                "train_actions": data.train_actions[columns], "vector": vector_column(points),
            }))  # fmt: skip
            index = _index(points, exact_up_to) if has_faiss and len(points) else None
            found, checked = 0, 0
            for batch, vectors in user_points(scorer, domain):
                queries = vectors.numpy()
                names = data.user_ids.take(pa.array(batch))
                writer.write_table(pa.table([names, [domain] * len(batch), vector_column(queries)], schema=schema))
                users += len(batch)
                if index is not None and checked < CHECKED_USERS:
                    queries = queries[: CHECKED_USERS - checked]
                    found, checked = found + _found(index, queries, points), checked + len(queries)
                work.advance(len(batch))
            if index is not None:
                name = f"items-{number}.faiss"
                _save(index, folder / name)
                nearest = min(NEAREST, len(points))
                indexes.append({
                    "file": name, "domain": domain, "items": len(points), "users_checked": checked,
                    f"recall_at_{NEAREST}": found / (checked * nearest) if checked else None,
                })  # fmt: skip
    pq.write_table(pa.concat_tables(parts), folder / "items.parquet", compression="zstd")
    if not has_faiss:
        text.log("No index is written, as faiss is not installed: install the extra `index` (llm-edt[index]).")
    (folder / "index.json").write_text(json.dumps(indexes, indent=2) + "\n", encoding="utf-8")
    lines = [f"{each['file']}: {each['domain']}, recall@{NEAREST} {each[f'recall_at_{NEAREST}']}" for each in indexes]
    return f"{data.n_items:,} of items and {users:,} of users and domains, {width} numbers each", lines


def _index(points: np.ndarray, exact_up_to: int) -> Any:
    """Return an exact index of faiss for up to `exact_up_to` points (n, d), and a graph (HNSW) for more."""
    import faiss

    width = points.shape[1]
    if len(points) <= exact_up_to:
        index: Any = faiss.IndexFlatIP(width)
    else:
        index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = LOOKED_AT
    index.add(points)
    return index


def _save(index: Any, path: Path) -> None:
    import faiss

    faiss.write_index(index, str(path))


def _found(index: Any, queries: np.ndarray, points: np.ndarray) -> int:
    """Return how many of the exactly nearest items, over all queries, the index finds."""
    k = min(NEAREST, len(points))
    exact = queries @ points.T
    least = np.partition(exact, -k, axis=1)[:, -k:].min(axis=1)
    _, rows = index.search(queries, k)
    scores = np.where(rows >= 0, np.take_along_axis(exact, rows.clip(min=0), axis=1), -np.inf)
    return int((scores >= least[:, None] - 1e-4).sum())


def _write_scorers(scorer: NetworkScorer, folder: Path) -> list[tuple[str, str]]:
    """Write the programs and scorers.json, which says what they read; return names and domains."""
    folder.mkdir()
    exports = {".pt2": export_scorer, ".onnx": export_onnx}
    if not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        text.log("No ONNX is written, as onnx and onnxscript are not installed: install the extra `onnx`.")
        del exports[".onnx"]
    named = [(f"scorer-{number}", domain) for number, domain in enumerate(scorer.data.domains)]
    named = [(name + suffix, domain) for name, domain in named for suffix in exports]
    for name, domain in counted(named, "programs", len(named), "programs"):
        exports[Path(name).suffix](scorer, domain, folder / name)
    reads = "(B, length) int64: numbers of catalogue/items from the oldest to the newest, 0 on the right"
    length = scorer.network.cfg.max_length
    about = [{"file": name, "domain": domain, "length": length, "reads": reads} for name, domain in named]
    (folder / "scorers.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return named


def _write_recommendations(lake: Lake, folder: Path) -> list[str]:
    """Write the nightly lists, where this model has made any, as Parquet and as JSON lines."""
    made, model = lake.manifest("recommendations"), lake.manifest("checkpoint")
    if not (made and model) or made.inputs["checkpoint"].content != model.outputs["checkpoint"].content:
        return ["none, as the stage recommend has not run with this model"]
    folder.mkdir()
    table = lake.read("recommendations")
    pq.write_table(table, folder / "recommendations.parquet", compression="zstd")
    write_lists(table, folder / "recommendations.jsonl")
    return [f"{table.num_rows:,} recommendations, as Parquet and as JSON lines"]
