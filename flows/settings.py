"""Everything that a person can set, read from one TOML file."""

import json
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from data_lake.config import Config
from data_lake.errors import UserError
from data_lake.settings_errors import problems
from model.config import OLD_PRESETS, RELEASES, EvaluateConfig, MetricName, RecommendConfig, TrainConfig
from pipeline.config import (
    DataConfig,
    DescribeConfig,
    DomainConfig,
    EmbedConfig,
    EnrichConfig,
    LLMConfig,
    OpenAIConfig,
    ProfileConfig,
    SplitConfig,
)

DEFAULT_FILE = Path("edt.toml")
LARGEST = 1 << 17
"""Bytes of a settings file."""
DEEPEST = 32
"""Sections inside each other, and parts of a key: the time of Python's reader grows with their square."""
LONG_KEY = re.compile(rf"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){{{DEEPEST}}}""")
DATASET = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What the name of a dataset looks like, since a folder is called by it."""
PROMPTS = frozenset({
    ("enrich", "prompt"), ("profile", "domain_prompt"), ("profile", "user_prompt"), ("domains", "generate_prompt"),
    ("domains", "profile_prompt"), ("describe", "prompt"),
})  # fmt: skip
"""The settings, by their first section, that name a file with a prompt; what it holds is what they mean."""
SECRETS = frozenset({"key_variable"})
"""Settings into which a person may have put a secret by mistake: no error shows what they are."""
SEEDED = ("data", "enrich", "profile", "llm", "train")
"""The sections that have a seed of their own."""


class LakeConfig(Config):
    """Where the artifacts lie, and how many versions of each are kept."""

    root: str = "data_lake/store"
    """Folder beside the settings file, or the URL of an object store."""

    keep: PositiveInt = 3
    """Versions of each artifact, the current one included."""

    actions_per_part: PositiveInt = 2_000_000
    """About how many actions ingest, split and assemble hold in memory at once: users are dealt into as many parts as
    the files hold times this many rows. Another number is another order of the users."""


class ScaleConfig(Config):
    """Where the shards of a stage are made."""

    engine: Literal["local", "ray"] = "local"
    """`ray`: by workers of a Ray cluster (extra `ray`), whose machines all see the lake's folder and the same files.
    The results are the same."""

    address: str | None = None
    """Of the cluster; none: that of the environment variable RAY_ADDRESS, or else a cluster of this machine alone."""

    workers: PositiveInt = 1
    """How many workers a stage has at most. Each loads what it needs once a stage."""

    gpus_per_worker: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs that each worker of a stage with a model holds."""

    cpus_per_worker: Annotated[float, Field(gt=0.0)] = 1.0
    """CPU cores that each worker holds."""

    shards_per_task: PositiveInt = 1
    """Shards that a worker makes before it asks for more: the inputs of a stage are read anew for each task."""


class GateConfig(Config):
    """Whether a checkpoint that is much worse than the current one is held back before it is published."""

    metric: MetricName = "NDCG@10"
    """Of the full ranking, over all validation targets that both checkpoints know."""

    worst: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """The share by which the new one may lie below the current one; none: nothing is compared. On few targets two
    trainings of the same data may be some percent apart."""


class ReportConfig(Config):
    """The page that shows what a run made (`edt report`)."""

    after_run: bool = True
    """Write it at the end of every run."""


class TrainSettings(TrainConfig):
    """The trainer's settings, and how it is started."""

    warm: bool = False
    """Go on from the current checkpoint's weights, for a tenth of the epochs; from scratch where that does not fit, or
    is worse than the current checkpoint on the new validation targets."""

    processes: PositiveInt = 1
    """Ranks that share the training, on this machine."""

    def as_fingerprint(self) -> dict[str, Any]:
        """Return the settings; of `warm` only that it is on, so that what is trained from scratch is what it was."""
        found = super().as_fingerprint()
        return found if found.get("warm") else {name: value for name, value in found.items() if name != "warm"}


class Settings(Config):
    """The settings of one dataset. Paths are absolute once `load_settings` has read them."""

    dataset: str = Field(pattern=DATASET)
    """Its name in the lake, and that of its deployment: letters, digits and `. _ -`."""

    seed: NonNegativeInt = 0
    """Of everything that is drawn, where a section has no `seed` of its own."""

    data: DataConfig
    split: SplitConfig = SplitConfig()
    describe: DescribeConfig = DescribeConfig()
    embed: EmbedConfig = EmbedConfig()
    enrich: EnrichConfig = EnrichConfig()
    profile: ProfileConfig = ProfileConfig()
    llm: LLMConfig = LLMConfig()
    openai: OpenAIConfig = OpenAIConfig()
    domains: dict[str, DomainConfig] = Field(default_factory=dict)
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateConfig = EvaluateConfig()
    recommend: RecommendConfig = RecommendConfig()
    lake: LakeConfig = LakeConfig()
    scale: ScaleConfig = ScaleConfig()
    gate: GateConfig = GateConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        """Give `[enrich]` what the trainer's preset says of it, where it is not set."""
        if not isinstance(given, dict):
            return given
        train, enrich = given.get("train"), given.get("enrich", {})
        released = isinstance(train, dict) and train.get("preset") in (*RELEASES, *OLD_PRESETS)
        return given | {"enrich": {"place": "similar"} | enrich} if released and isinstance(enrich, dict) else given

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.data.times == "order" and self.split.by == "time":
            raise ValueError('[split] by = "time" needs real times, and [data] times is "order"')
        return self


def load_settings(path: str | Path = DEFAULT_FILE, overrides: Iterable[str] = ()) -> Settings:
    """Read the settings file, apply `section.key=value` overrides, make its paths absolute, and read its prompts."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such settings file. Write one with `edt init`, or name it with --config.")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: it has {path.stat().st_size:,} bytes; settings have {LARGEST:,} at most (LARGEST).")
    try:
        tree = _read_toml(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: a number of too many digits, too
        raise UserError(f"{path}: not a TOML file: {error}") from error
    for override in overrides:
        _merge(tree, parse_override(override), override)
    tree.setdefault("lake", {})
    if isinstance(tree["lake"], dict):
        tree["lake"].setdefault("root", LakeConfig().root)
    for section in SEEDED if "seed" in tree else ():
        if isinstance(tree.setdefault(section, {}), dict):
            tree[section].setdefault("seed", tree["seed"])
    try:
        folder = path.resolve().parent
        return Settings.model_validate(_absolute(_with_prompts(tree, folder), folder))
    except ValidationError as error:
        found = problems(Settings, error, SECRETS)
        raise UserError("\n".join(f"{path}: {problem}" for problem in found)) from None  # it shows inputs


def parse_override(override: str) -> dict[str, Any]:
    """Read `section.key=value`; a value that is no TOML is a string."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: write it as section.key=value, for example --set train.seed=1.")
    for text in (value, json.dumps(value, ensure_ascii=False)):
        try:
            return _read_toml(f"{key} = {text}")
        except (ValueError, RecursionError):
            continue
    raise UserError(f"--set {override}: {key!r} is no key; write it as section.key=value.")


def _read_toml(text: str) -> dict[str, Any]:
    """Return the sections of a settings file. Raises ValueError, RecursionError."""
    if LONG_KEY.search(text):
        raise ValueError(f"a key has more than {DEEPEST} parts")
    tree = tomllib.loads(text)
    level = [tree]
    for _ in range(DEEPEST):
        level = [value for section in level for value in section.values() if isinstance(value, dict)]
    if level:
        raise ValueError(f"more than {DEEPEST} sections stand inside each other")
    return tree


def _merge(tree: dict[str, Any], more: dict[str, Any], override: str) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value, override)
        elif isinstance(tree.get(key), dict):
            raise UserError(f"--set {override}: [{key}] is a section; set one of its keys.")
        else:
            tree[key] = value


def _with_prompts(tree: dict[str, Any], folder: Path, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the settings with the text of each file that a prompt's setting names in its place."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found[key] = _with_prompts(value, folder, (*path, key))
        elif isinstance(value, str) and (*path[:1], key) in PROMPTS:
            found[key] = _read_prompt(f"[{'.'.join(path)}] {key}", _path(folder, value))
        else:
            found[key] = value
    return found


def _read_prompt(setting: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip() + "\n"
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{setting}: {file} cannot be read as a prompt ({reason}). Name a text file.") from error


def _path(folder: Path, value: str) -> Path:
    """Return a path of the settings, which starts at their folder. Raises UserError for a text that can be none."""
    path = folder / os.path.expanduser(value)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path
    except (OSError, ValueError) as error:  # too long a name, or a null in it
        raise UserError(f"{value[:60]!r} in the settings can be no path ({error}). Correct it.") from error
    return path


def _absolute(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings with each path made absolute from the folder of the settings file."""

    def files(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: files(each) for key, each in value.items()}
        if isinstance(value, list):
            return [files(each) for each in value]
        return str(_path(folder, value)) if isinstance(value, str) and "://" not in value else value

    def model(value: Any) -> Any:
        """A model is a folder where there is one of that name, else a name on a hub."""
        there = isinstance(value, str) and value and os.path.isdir(folder / os.path.expanduser(value))
        return files(value) if there else value

    paths = {"data": {"interactions": files, "items": files}, "lake": {"root": files}}
    paths |= {"split": {"validation_queries": files, "test_queries": files}}
    paths |= {"recommend": {"allow": files, "deny": files}}
    paths |= {"llm": {"model": model}, "embed": {"model": model}, "openai": {"tokenizer": model}}
    for section, keys in paths.items():
        found = tree.get(section)
        if isinstance(found, dict):
            tree = tree | {section: found | {key: keys[key](found[key]) for key in keys if key in found}}
    return tree
