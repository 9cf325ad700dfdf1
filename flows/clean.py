"""Remove what no current artifact or checkpoint needs."""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_lake.files import remove
from data_lake.lake import Lake
from data_lake.schemas import ARTIFACTS
from flows.plan import plan
from flows.run import Run
from flows.text import table
from pipeline.vectors.embedding import vector_key

WITH_REPLIES = tuple(
    artifact.name for artifact in ARTIFACTS.values() for schema in artifact.tables.values() if "reply" in schema.names
)
"""The artifacts whose rows name, by its hash, the prompt that they come from."""

WITH_TEXTS = {"domain_profiles": "text", "user_profiles": "text", "grounded_items": "answer"}
"""The artifacts with texts that are embedded, and where these stand; items have theirs besides."""


@dataclass(frozen=True)
class Cleaned:
    """What was removed, or would be: files and folders with their bytes, and rows of the two memories."""

    files: list[tuple[Path, int]]
    replies: int | None
    vectors: int | None
    """None: left alone, because the next run has still to make something, and may need it."""

    def __str__(self) -> str:
        lines = [table([{"removed": str(path), "bytes": size} for path, size in self.files], widest=200)]
        if self.replies is None:
            lines.append("Replies and vectors are kept whole until `edt run` has nothing more to make.")
        else:
            lines.append(f"{self.replies:,} replies and {self.vectors:,} vectors that nothing current comes from.")
        lines.append(f"{sum(size for _, size in self.files):,} bytes in {len(self.files)} files and folders.")
        return "\n".join(filter(None, lines))


def clean(run: Run, is_dry: bool = False) -> Cleaned:
    """Remove versions, unfinished work, replies and vectors that nothing current needs; `is_dry`: only say so.

    Kept are what current artifacts were made from and what the next run can go on from.
    """
    lake = run.lake
    with lake.lock():
        old, leftovers = lake.old_versions(), lake.leftovers(run.stages)
        found = [(path, _size(path)) for path in (*old, *leftovers)]
        replies = vectors = None
        if all(step.action in ("skip", "off") for step in plan(run)):
            replies = keep_replies(lake, asked_prompts(lake), with_earlier=True, is_dry=is_dry)
            vectors = keep_vectors(run, is_dry)
        if not is_dry:
            for path in old:
                lake.remove_version(path)
            for path in leftovers:
                remove(path)
            lake.store.save_caches()
    return Cleaned(found, replies, vectors)


def asked_prompts(lake: Lake) -> set[str]:
    """Return the hashes of the prompts that rows of current artifacts come from."""
    found: set[str] = set()
    for artifact in WITH_REPLIES:
        if lake.manifest(artifact):
            found.update(lake.read(artifact, columns=["prompt_hash"])["prompt_hash"].to_pylist())
    return found


def keep_replies(lake: Lake, prompts: Set[str], with_earlier: bool, is_dry: bool = False) -> int:
    """Remove the replies to other prompts; return how many.

    `with_earlier` keeps those of a version that named prompts otherwise, too.
    """
    wanted = pa.array(prompts, pa.string())

    def needed(rows: pa.Table) -> pa.Array:
        is_asked = pc.is_in(rows["key"], value_set=wanted)
        if not with_earlier:
            return is_asked
        return (
            pc.or_(is_asked, rows["max_tokens"].is_null())
            if "max_tokens" in rows.column_names
            else rows["key"].is_valid()
        )

    return lake.keyed_cache("replies").change(lambda rows: rows.filter(needed(rows)), is_dry)


def keep_vectors(run: Run, is_dry: bool = False) -> int:
    """Remove the vectors of texts that no current artifact holds, and of other models; return how many."""
    from pipeline.vectors.embed_items import with_descriptions

    lake = run.lake
    texts: set[str] = set()
    if lake.manifest("items"):
        items = lake.read("items")
        texts.update(items["text"].drop_null().to_pylist())
        if lake.manifest("item_descriptions"):
            texts.update(with_descriptions(items, lake.read("item_descriptions"))["text"].drop_null().to_pylist())
    for artifact, column in WITH_TEXTS.items():
        if lake.manifest(artifact):
            texts.update(lake.read(artifact, columns=[column])[column].drop_null().unique().to_pylist())
    encoder = run.models.encoder
    wanted = pa.array([vector_key(encoder.model, encoder.revision, text) for text in texts], pa.string())
    cache = lake.keyed_cache("vectors")
    return cache.change(lambda rows: rows.filter(pc.is_in(rows["key"], value_set=wanted)), is_dry)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
