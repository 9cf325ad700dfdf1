"""What each artifact holds: a pyarrow schema per table, and the check that every write and read passes.

Each column carries a description, which the Parquet files hold as metadata of its field.
"""

from dataclasses import dataclass, field

import pyarrow as pa

TIME = pa.timestamp("ms", tz="UTC")
VECTOR = pa.list_(pa.float32(), -1)
"""Stands for a vector column; on disk a fixed-size list of float32, of one length for the whole table."""

TRAIN, VALIDATION, TEST, CONTEXT = "train", "validation", "test", "context"
SPLITS = (TRAIN, VALIDATION, TEST, CONTEXT)
"""Roles of a position. `context` is a real action that may be read, and is neither trained on nor anybody's target: in
an evaluation window, or in a query's history."""

ALL = "all"
"""Scope of a profile over every domain, and the group of all users in `metrics`."""

DESCRIPTION = b"description"
"""The key of a column's description in its field's metadata."""


def column(name: str, kind: pa.DataType, description: str, null: bool = False) -> pa.Field:
    """Return a column. `description` says what it holds, its unit or range, and when it is null."""
    return pa.field(name, kind, nullable=null, metadata={DESCRIPTION: description})


def describe(column: pa.Field) -> str:
    """Return the description of a column; empty where an earlier version wrote it without one."""
    found: bytes = (column.metadata or {}).get(DESCRIPTION, b"")
    return found.decode()


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", kind, nullable=False))


TEXTS = _list(pa.string())


@dataclass(frozen=True)
class Artifact:
    """Name, tables and key of an artifact.

    `tables` maps a table's name to its schema; an artifact of one table has the single name "".
    `rows` says what one row of each table is.
    `key` holds the columns that are unique together, per table; an empty tuple means no such columns.
    `files` says that the folder also holds files that are no tables (weights, configs).
    `open_suffix` allows more float columns whose names end so, in any table.
    """

    name: str
    tables: dict[str, pa.Schema]
    rows: dict[str, str]
    key: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: bool = False
    open_suffix: str | None = None

    def further_column(self, name: str) -> pa.Field | None:
        """Return the column that `open_suffix` allows under this name; None where it allows none."""
        if self.open_suffix is None or not name.endswith(self.open_suffix):
            return None
        return column(name, pa.float32(), "A further part of the loss, before its weight.")


def _one(
    name: str, row: str, columns: list[pa.Field], *key: str, files: bool = False, open_suffix: str | None = None
) -> Artifact:
    return Artifact(name, {"": pa.schema(columns)}, {"": row}, {"": key}, files, open_suffix)


_USER = column("user_id", pa.string(), "The user's id, as the files give it.")
_ITEM = column("item_id", pa.string(), "The item's id, as the files give it.")
_DOMAIN = column("domain", pa.string(), "The domain.")
_FROM = column("from_domain", pa.string(), "The domain whose items the question shows.")
_TO = column("to_domain", pa.string(), "The domain that answers are asked for.")
_VECTOR_OF = [
    column("model", pa.string(), "Name of the text embedding model."),
    column(
        "revision", pa.string(),
        "Commit of the model, or the hash of its files; ends in `+described` where descriptions are part of the texts.",
    ),
]  # fmt: skip

_ACTION = [
    _USER,
    _ITEM,
    column("domain", pa.string(), "The item's domain."),
    column(
        "timestamp", TIME, "When it happened, to the millisecond; 2000-01-01 for all where `[data] times` is `order`."
    ),
    column("position", pa.int32(), "Its place in the user's history, from 0: the only order that later stages use."),
    column("rating", pa.float32(), "Stars, as the files give them. Null: the files tell none.", null=True),
]

INTERACTIONS = _one("interactions", "an action of a user", _ACTION, "user_id", "position")

QUERIES = _one(
    "queries",
    "an action of a query, a history that is asked about and never trained on; none unless `[split] by` is `queries`",
    [*_ACTION, column("split", pa.string(), "`validation` or `test`: what the user's last row is a target of.")],
    "user_id",
    "position",
)

ITEMS = _one(
    "items",
    "an item of the catalogue",
    [
        _ITEM,
        _DOMAIN,
        column("title", pa.string(), "Its title, without markup. Null: it has none.", null=True),
        column(
            "text", pa.string(),
            "What is embedded: the title and the further columns of `[data.columns] text`. Null: it has no text.",
            null=True,
        ),
    ],
    "item_id",
)  # fmt: skip

REJECTS = _one(
    "rejects",
    "a row of the files that was refused",
    [
        column("file", pa.string(), "Name of the file, with its folder where two files share the name."),
        column(
            "line", pa.int64(),
            "Line of a text file, or row of a Parquet file, from 1. Null: it is not known.", null=True,
        ),
        column("kind", pa.string(), "`interaction`, `item` or `query`."),
        column("reason", pa.string(), "Why, in one word: see the page on reasons."),
        column("row", pa.string(), "The row as text, cut to 500 characters; empty for rows of forgotten users."),
    ],
)  # fmt: skip

_SEQUENCE = [
    _USER,
    column("item_ids", TEXTS, "Items, from the oldest action to the newest."),
    column("domains", TEXTS, "The domain of each."),
    column("timestamps", _list(TIME), "The time of each action."),
    column(
        "splits", TEXTS,
        "The role of each action: `train`, `validation` or `test` (a target), or `context`, which may be read and is "
        "neither trained on nor a target.",
    ),
]  # fmt: skip

SEQUENCES = _one("sequences", "a user with the whole history", _SEQUENCE, "user_id")

ITEM_EMBEDDINGS = _one(
    "item_embeddings",
    "an item with the vector of its text",
    [
        _ITEM,
        _DOMAIN,
        column("vector", VECTOR, "Of length 1. Null: the item has no text.", null=True),
        *_VECTOR_OF,
    ],
    "item_id",
)

PROBES = _one(
    "probes",
    "a user of two domains with one of them hidden, who is asked about as others are, so that answers can be judged",
    [
        column("user_id", pa.string(), "The probe's own id: `u1 without food`."),
        *_SEQUENCE[1:],
        column("real_user_id", pa.string(), "The user whose training actions in the other domains these are."),
        column("hidden_domain", pa.string(), "The domain that is left out."),
        column("hidden_items", TEXTS, "Items that the user chose there, in training."),
    ],
    "user_id",
)

ANSWER_LIFT = _one(
    "answer_lift",
    "answers of a pair of domains: how often users really chose them, beside chance",
    [
        column(
            "truth", pa.string(),
            "What answers are held against: `unshown`, training actions after those that prompts show, or `hidden`, "
            "the hidden domain of probes.",
        ),
        _FROM,
        _TO,
        column(
            "source", pa.string(),
            "Whose items: `answers` are all that were grounded, `kept` those that are inserted; to compare with, "
            "`another user`, the answers to another user, and as many items by `retrieval`, `cooccurrence` and "
            "`popular`, with candidates also `candidates`.",
        ),
        column("band", pa.int32(), "First rank of a band of ranks, from 0. Null: all ranks.", null=True),
        column("users", pa.int64(), "Users that were counted."),
        column("answers", pa.int64(), "Answers that were counted."),
        column("share", pa.float64(), "Share of the answers whose item the user chose, 0 to 1."),
        column("low", pa.float64(), "Lower end of its 95 % interval over users."),
        column("high", pa.float64(), "Upper end of it."),
        column("chance", pa.float64(), "The share of a random item of the domain."),
        column("in_cluster", pa.float64(), "Share of answers in a cluster of items that the user chose one of."),
        column("in_cluster_by_chance", pa.float64(), "The same of a random item of the domain."),
    ],
    "truth",
    "from_domain",
    "to_domain",
    "source",
    "band",
)  # fmt: skip

_POSITIONS = [  # from 0, in the user's row of `sequences` or, of a probe, of `probes`
    column(
        "seen", pa.int32(),
        "Position in the user's sequence of the last action that the row rests on. Null: it rests on none.", null=True,
    ),
    column(
        "forbidden", pa.int32(),
        "Position of the first action that the row must not rest on. Null: there is none.", null=True,
    ),
]  # fmt: skip

REPRESENTATIVES = _one(
    "representatives",
    "a user and a domain: the items that stand for the history there, and how many to insert",
    [
        _USER,
        _DOMAIN,
        column("item_ids", TEXTS, "The items, in the order of the history; only such with a text."),
        column("actions", pa.int32(), "Real actions of the domain in the shown part of the training actions."),
        column("budget", pa.int32(), "Items to insert into this domain at most; 0 where it has its fair share."),
        column("shown", pa.int32(), "Actions of all domains that prompts may show."),
        *_POSITIONS,
    ],
    "user_id",
    "domain",
)

_REPLY = [
    column("prompt_hash", pa.string(), "SHA-256 of the last request, model and sampling included; empty: not asked."),
    column("reply", pa.string(), "What was replied, as it came. Null: there was no reply.", null=True),
    column("status", pa.string(), "`ok` or `failed`."),
    column("reason", pa.string(), "Why it failed, in one word. Null: it did not.", null=True),
    column("tokens_in", pa.int32(), "Tokens of the prompts, a second one included."),
    column("tokens_out", pa.int32(), "Tokens of the replies."),
    column("tokens_cached", pa.int32(), "Tokens of the prompts that the model had in its cache."),
    column("dropped", TEXTS, "Of each answer in the reply that says nothing and was left out, the reason."),
]

ITEM_DESCRIPTIONS = _one(
    "item_descriptions",
    "an item with what a language model knows of it",
    [
        _ITEM,
        _DOMAIN,
        *_REPLY,
        column("attributes", TEXTS, "Phrases that fit things of any domain; empty if the reply failed."),
        column("goes_with", TEXTS, "Kinds of product of the other domains; empty if the reply failed."),
    ],
    "item_id",
)

GENERATED_ITEMS = _one(
    "generated_items",
    "a question: which items of one domain would the user choose, by what was chosen in another",
    [
        _USER,
        _FROM,
        _TO,
        *_POSITIONS,
        *_REPLY,
        column("answers", TEXTS, "The titles that were answered; empty if the reply failed."),
        column("item_ids", TEXTS, "The catalogue item of each answer where the generator names it; else empty."),
    ],
    "user_id",
    "from_domain",
    "to_domain",
)

GROUNDED_ITEMS = _one(
    "grounded_items",
    "an answer: its catalogue item, what tells its relevance, and whether it is inserted",
    [
        _USER,
        _FROM,
        _TO,
        column("answer_index", pa.int32(), "Its place among the answers to the question, from 0."),
        column("answer", pa.string(), "The title that was answered."),
        column("item_id", pa.string(), "The item that it means. Null: nothing in the catalogue was near.", null=True),
        column("title", pa.string(), "That item's title. Null: no item, or one without a title.", null=True),
        column(
            "faithfulness", pa.float32(),
            "Cosine of answer and item, -1 to 1; 1 where the generator named the item. Null: no item.", null=True,
        ),
        column(
            "faithfulness_threshold", pa.float32(),
            "Cosine below which answers of the domain are counted apart. Null: no item.", null=True,
        ),
        column(
            "shared", pa.float32(),
            "How much users who share items with the user chose it, from 0. Null: no item.", null=True,
        ),
        column(
            "popularity", pa.float32(),
            "How often it was chosen shortly before the prompt, from 0. Null: no item.", null=True,
        ),
        column(
            "text", pa.float32(),
            "Cosine of the item and the user's nearest representative item, -1 to 1. Null: no item.", null=True,
        ),
        column("relevance", pa.float32(), "Learnt from these three; higher is better. Null: no item.", null=True),
        column(
            "band", pa.int32(),
            "Band of relevance: 0 the most relevant to 2; 3 to 5 the same of answers that are not faithful. Null: no "
            "item.",
            null=True,
        ),
        column(
            "weight", pa.float32(),
            "Weight as a training target, 0 to 1, beside 1 of a real one; 0: the band does not beat chance, or was not "
            "counted. Null: no item.",
            null=True,
        ),
        column("kept", pa.bool_(), "Whether it is inserted."),
        column("reason", pa.string(), "Why it is not, in one word. Null: it is kept.", null=True),
    ],
    "user_id",
    "from_domain",
    "to_domain",
    "answer_index",
)  # fmt: skip

AUGMENTED_SEQUENCES = _one(
    "augmented_sequences",
    "a user with the history and what was inserted into it",
    [
        *_SEQUENCE,
        column("synthetic", _list(pa.bool_()), "Whether each item was inserted: no action of the user's."),
        column("weights", _list(pa.float32()), "Weight of each inserted item as a training target; 0 for real ones."),
    ],
    "user_id",
)

DOMAIN_PROFILES = _one(
    "domain_profiles",
    "a user and a domain: what the user prefers there",
    [
        _USER,
        _DOMAIN,
        column("text", pa.string(), "The profile. Null: it failed.", null=True),
        column("evidence", pa.int32(), "Real training actions of the user in the domain."),
        column("inferred", pa.bool_(), "Whether it rests on inserted items alone: it weighs nothing in the merge."),
        *_POSITIONS,
        *_REPLY,
    ],
    "user_id",
    "domain",
)

USER_PROFILES = _one(
    "user_profiles",
    "a user: the profiles of the domains merged into one",
    [
        _USER,
        column("text", pa.string(), "The profile. Null: it failed.", null=True),
        column("evidence", pa.int32(), "Real training actions of the user in all domains."),
        *_POSITIONS,
        *_REPLY,
    ],
    "user_id",
)

PROFILE_EMBEDDINGS = _one(
    "profile_embeddings",
    "a profile with the vector of its text",
    [
        _USER,
        column("scope", pa.string(), "A domain, or `all` for the merged profile."),
        column("vector", VECTOR, "Of length 1. Null: the profile failed.", null=True),
        *_VECTOR_OF,
    ],
    "user_id",
    "scope",
)

TRAINING_SET_VERSION = 3
"""2: `info` has `times`. 3: `sequences` has `weights`."""

_USER_NUMBER = column("user", pa.int32(), "The user's number, from 1.")
_ITEM_NUMBER = column("item", pa.int32(), "The item's number, from 1; 0 is padding.")

TRAINING_SET = Artifact(
    "training_set",
    {
        "sequences": pa.schema([
            _USER_NUMBER,
            column("items", _list(pa.int32()), "Numbers of the items, from the oldest action to the newest."),
            column("times", _list(pa.int64()), "The time of each action, in milliseconds since 1970, UTC."),
            column("splits", _list(pa.int8()), f"The role of each action, a place in {', '.join(SPLITS)}, from 0."),
            column("synthetic", _list(pa.bool_()), "Whether each item was inserted."),
            column("weights", _list(pa.float32()), "Weight of each inserted item as a target; 0 for real ones."),
        ]),
        "users": pa.schema([
            _USER_NUMBER,
            _USER,
            column("key", pa.uint64(), "Hash of the user's id: it draws the evaluation's candidates."),
        ]),
        "items": pa.schema([
            _ITEM_NUMBER,
            _ITEM,
            _DOMAIN,
            column("title", pa.string(), "Its title. Null: it has none.", null=True),
            column("train_actions", pa.int64(), "Real training actions of this item, over all users."),
            column("key", pa.uint64(), "Hash of the item's id."),
        ]),
        "item_vectors": pa.schema([
            _ITEM_NUMBER,
            column("vector", VECTOR, "Of the item's text, of length 1. Null: it has no text.", null=True),
        ]),
        "profile_vectors": pa.schema([
            _USER_NUMBER,
            column("scope", pa.string(), "A domain, or `all` for the merged profile."),
            column("vector", VECTOR, "Of the profile, of length 1. Null: the profile failed.", null=True),
        ]),
        "info": pa.schema([
            column("contract_version", pa.int32(), "Version of this artifact's form."),
            column("candidates_seed", pa.int64(), "Seed of the evaluation's candidates."),
            column("domains", TEXTS, "The domains, in the order that the settings or the data give them."),
            column("times", pa.string(), "`real`, or `order`: all times are the same, and nothing is made of them."),
        ]),
    },
    {
        "sequences": "a user with the history, in numbers",
        "users": "a user's number and id",
        "items": "an item's number and id",
        "item_vectors": "an item's vector",
        "profile_vectors": "a profile's vector",
        "info": "the whole training set (one row)",
    },
    {
        "sequences": ("user",),
        "users": ("user",),
        "items": ("item",),
        "item_vectors": ("item",),
        "profile_vectors": ("user", "scope"),
        "info": (),
    },
)  # fmt: skip

_HISTORY = [
    column("epoch", pa.int32(), "Epoch of the phase, from 1."),
    column("loss", pa.float32(), "Training loss, the mean over the epoch."),
    column("next_item_loss", pa.float32(), "Its part from predicting the next item."),
    column(
        "align_loss", pa.float32(), "Its part from the pull to the profiles, before its weight; 0 where that is off."
    ),
    column("learning_rate", pa.float32(), "Learning rate of the epoch."),
    column("protocol", pa.string(), "The protocol that `value` was measured with."),
    column("metric", pa.string(), "The metric that `value` is of."),
    column("value", pa.float32(), "The validation figure, the mean over domains, 0 to 1."),
    column("best", pa.bool_(), "Whether it was the best until then: the weights of the last best epoch are kept."),
]

PRETRAINED = _one(
    "pretrained", "an epoch of phase 1; the weights lie beside", _HISTORY, "epoch", files=True, open_suffix="_loss"
)
CHECKPOINT = _one(
    "checkpoint", "an epoch of phase 2; the weights lie beside", _HISTORY, "epoch", files=True, open_suffix="_loss"
)

_MEASURED = [
    column("phase", pa.string(), "`pretrain` or `finetune`."),
    column("split", pa.string(), "`validation` or `test`."),
    column(
        "protocol", pa.string(),
        "Among which candidates: `full`, all items of the target's domain, or `sampled-N`, N random ones of them.",
    ),
]  # fmt: skip

METRICS = _one(
    "metrics",
    "a figure",
    [
        *_MEASURED,
        column("domain", pa.string(), "The targets' domain. Null: all domains together.", null=True),
        column("group", pa.string(), "The group of targets; `all` is every one."),
        column("metric", pa.string(), "`HR@5`, `HR@10`, `NDCG@5`, `NDCG@10` or `MRR`."),
        column("value", pa.float64(), "The figure, 0 to 1."),
        column("low", pa.float64(), "Lower end of its 95 % bootstrap interval over users."),
        column("high", pa.float64(), "Upper end of it."),
        column("users", pa.int64(), "Users whose targets were measured."),
        column("candidates", pa.float64(), "Mean number of candidates, the target included."),
    ],
    "phase",
    "split",
    "protocol",
    "domain",
    "group",
    "metric",
)

RANKS = _one(
    "ranks",
    "a user's target and where it ranks",
    [
        *_MEASURED,
        _USER,
        column("domain", pa.string(), "The target's domain."),
        column("item_id", pa.string(), "The target."),
        column("rank", pa.int32(), "Its rank among the candidates, from 1; a tie counts against the model."),
        column("candidates", pa.int32(), "Number of candidates, the target included."),
    ],
    "phase",
    "split",
    "protocol",
    "user_id",
)

RECOMMENDATIONS = _one(
    "recommendations",
    "an item recommended to a user",
    [
        _USER,
        _DOMAIN,
        column("rank", pa.int32(), "Place in the list of the user and domain, from 1."),
        _ITEM,
        column("title", pa.string(), "The item's title. Null: it has none.", null=True),
        column("score", pa.float32(), "What the model gives it; higher is better, comparable within a list only."),
    ],
    "user_id",
    "domain",
    "rank",
)

ARTIFACTS: dict[str, Artifact] = {
    artifact.name: artifact
    for artifact in (
        INTERACTIONS, ITEMS, QUERIES, REJECTS, SEQUENCES, ITEM_DESCRIPTIONS, ITEM_EMBEDDINGS, PROBES, REPRESENTATIVES,
        GENERATED_ITEMS, GROUNDED_ITEMS, ANSWER_LIFT, AUGMENTED_SEQUENCES, DOMAIN_PROFILES, USER_PROFILES,
        PROFILE_EMBEDDINGS, TRAINING_SET, PRETRAINED, CHECKPOINT, METRICS, RANKS, RECOMMENDATIONS,
    )
}  # fmt: skip
