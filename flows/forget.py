"""Let a user leave: remove the user from every artifact, memory and old version of a dataset."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from data_lake.errors import UserError
from data_lake.files import remove
from data_lake.lake import Lake
from data_lake.schemas import TRAIN
from flows.clean import asked_prompts, keep_replies, keep_vectors
from flows.run import Run
from flows.summary import report_path
from pipeline.ingest.forgotten import FORGOTTEN, hash_user, remember_to_forget

TRAINED = ("pretrained", "checkpoint")
USER_COLUMNS = ("user_id", "real_user_id")


@dataclass(frozen=True)
class Forgotten:
    """What was removed of a user: rows by artifact, replies and vectors; and what `owed` still says of the user."""

    user: str
    rows: dict[str, int]
    replies: int
    vectors: int
    owed: tuple[str, ...]

    def __str__(self) -> str:
        rows = ", ".join(f"{artifact} {count:,}" for artifact, count in self.rows.items())
        return "\n".join(
            (
                f"User {self.user!r} is removed (rows: {rows or 'none'}), with {self.replies:,} replies and "
                f"{self.vectors:,} vectors that no other row comes from, and all old versions and unfinished work.",
                "Files of interactions may still hold the user: ingest refuses such rows from now on.",
                *self.owed,
            )
        )


def forget_user(run: Run, user: str) -> Forgotten:
    """Remove a user from all that the lake holds, and have ingest refuse rows of the user from now on.

    What was made from a changed artifact is stale, so the next run makes it anew. A reply to a prompt that no current
    row names may be of anybody, and is removed, too. Raises UserError where nothing is known of the user, and, before
    it removes anything, where an artifact is not what was written. After a kill the same call goes on.
    """
    lake = run.lake
    with lake.lock():
        forgotten = lake.keyed_cache(FORGOTTEN)
        names, actions = _names(lake, user), _trained_actions(lake, user)
        if not names and hash_user(user) not in forgotten.all_keys():
            raise UserError(
                f"Dataset '{lake.home.name}' knows no user {user!r}. Look for the id by `edt show sequences`."
            )
        remember_to_forget(user, forgotten)
        trained = [artifact for artifact in TRAINED if lake.manifest(artifact)]
        removed: dict[str, int] = {}
        lake.forget(_without(user, {user, *names}, _number(lake, user), removed))
        lake.keyed_cache("examples").change(lambda rows: _without_example(rows, user))
        replies = keep_replies(lake, asked_prompts(lake), with_earlier=False)
        vectors = keep_vectors(run)
        remove(report_path(lake))
        lake.store.save_caches()
    return Forgotten(user, removed, replies, vectors, tuple(_owed(trained, actions)))


def _names(lake: Lake, user: str) -> set[str]:
    """Return the ids under which rows tell of a user: the user's own, and those of the user's probes."""
    found = {
        user
        for artifact in ("interactions", "queries", "sequences")
        if lake.manifest(artifact) and user in lake.read(artifact, columns=["user_id"])["user_id"].unique().to_pylist()
    }
    if lake.manifest("probes"):
        probes = lake.read("probes", columns=["user_id", "real_user_id"])
        found.update(probes.filter(pc.equal(probes["real_user_id"], user))["user_id"].to_pylist())
    return found


def _trained_actions(lake: Lake, user: str) -> int:
    """Return how many actions of the user a training sees."""
    if not lake.manifest("sequences"):
        return 0
    sequences = lake.read("sequences", columns=["user_id", "splits"])
    return sum(
        splits.count(TRAIN) for splits in sequences.filter(pc.equal(sequences["user_id"], user))["splits"].to_pylist()
    )


def _number(lake: Lake, user: str) -> int | None:
    """Return the user's number in the training set, None where the user is not in it."""
    if not lake.manifest("training_set"):
        return None
    users = lake.read("training_set", "users")
    found = users.filter(pc.equal(users["user_id"], user))["user"].to_pylist()
    return found[0] if found else None


def _without(
    user: str, names: Collection[str], number: int | None, removed: dict[str, int]
) -> Callable[[str, str, pa.Table], pa.Table]:
    """Return what leaves out rows of a user, and counts them by artifact in `removed`."""
    wanted = pa.array(sorted(names), pa.string())

    def change(artifact: str, table: str, rows: pa.Table) -> pa.Table:
        left = rows
        if artifact == "training_set" and "user" in rows.column_names:
            left = rows if number is None else _renumbered(rows, number)
        elif artifact == "rejects":  # the refused row as it stood in its file
            left = rows.filter(pc.invert(pc.match_substring(rows["row"], user)))
        for column in USER_COLUMNS:
            if column in left.column_names and artifact != "training_set":
                left = left.filter(pc.invert(pc.is_in(left[column], value_set=wanted)))
        if left.num_rows < rows.num_rows:
            removed[artifact] = removed.get(artifact, 0) + rows.num_rows - left.num_rows
        return left

    return change


def _renumbered(rows: pa.Table, number: int) -> pa.Table:
    """Return a table of the training set without a user; those with higher numbers move up."""
    rows = rows.filter(pc.not_equal(rows["user"], number))
    moved = pc.subtract(rows["user"], pc.greater(rows["user"], number).cast(pa.int32()))
    return rows.set_column(rows.schema.get_field_index("user"), rows.schema.field("user"), moved)


def _without_example(rows: pa.Table, user: str) -> pa.Table:
    """Leave a user out of the examples that prompts show."""
    examples = [
        json.dumps([each for each in json.loads(text) if each["user_id"] != user])
        for text in rows["examples"].to_pylist()
    ]
    return rows.set_column(rows.schema.get_field_index("examples"), "examples", pa.array(examples))


def _owed(trained: Collection[str], actions: int) -> list[str]:
    """Say what was made from the user and is not of the lake's rows."""
    lines = []
    if trained and actions:
        lines.append(
            f"{' and '.join(trained)} still rest on {actions:,} training actions of this user, in weights, in counts "
            "of items and in what was fitted to all users, until `edt run` has trained anew."
        )
    lines.append(
        "Not of this lake, so still as they were: input files, exports, the folder of `edt trial`, Prefect's log, and "
        "prompts that an endpoint was sent."
    )
    return lines
