"""The folder of a phase: weights, train state, settings, metrics and history, each file replaced as a whole.

No file holds a time, a duration or a path: the same run writes the same bytes.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, Field, NonNegativeInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_lake.config import Config
from data_lake.errors import UserError
from data_lake.schemas import CHECKPOINT
from data_lake.settings_errors import parse
from data_lake.tables import check, read_tables
from model.config import NetworkConfig, PretrainConfig
from model.lazy_adamw import LazyAdamW
from model.weight_average import WeightAverage

T = TypeVar("T")

HISTORY = "history.parquet"
MODEL = "model.safetensors"
STATE = "train_state.safetensors"
LAZY_ADAMW = "lazy_adamw."
"""How the names of its moments begin in a train state."""

OLD_TENSORS = {"trends.": "recency_popularity.", "rows.": "lazy_adamw."}
"""How the names of tensors began in files of earlier versions, and how they begin now."""

REMOVED: dict[str, dict[str, float]] = {
    "network": {"text_dropout": 0.0},
    "pretrain": {"warmup_steps": 0},
}
"""Settings of earlier versions that are gone, and the value at which they did nothing. Those of phase 2 are not here:
its earlier weights do not fit."""

ADDED: dict[str, dict[str, float]] = {"pretrain": {"average_epochs": 1.0}}
"""Settings that earlier versions did not have, and the value that is what they did."""

LOSS = "_loss"
"""How the names of a loss's parts end in the history and the train state."""


@dataclass(frozen=True)
class Progress:
    """Where a phase stands: what its last finished epoch was and how it went."""

    epoch: int
    steps: int
    loss: float
    parts: dict[str, float]
    """The parts of the loss by name, each before its weight."""
    learning_rate: float

    def losses(self) -> dict[str, float]:
        """Return the loss and its parts under the names that the history has for them."""
        return {"loss": self.loss} | {name + LOSS: value for name, value in self.parts.items()}

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "steps": self.steps, "learning_rate": self.learning_rate, **self.losses()}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Progress":
        parts = {name.removesuffix(LOSS): value for name, value in given.items() if name.endswith(LOSS)}
        return cls(given["epoch"], given["steps"], given["loss"], parts, given["learning_rate"])


class Trained(BaseModel, frozen=True):
    """The settings among those of config.json that shape a network."""

    network: NetworkConfig


class About(BaseModel, frozen=True):
    """What config.json tells of a phase's weights, whoever wrote it."""

    phase: Literal["pretrain", "finetune"]
    train: Trained
    domains: tuple[str, ...]
    items: NonNegativeInt
    text_size: NonNegativeInt
    profile_size: int = Field(ge=0, le=65_536)
    catalogue: str = ""
    """An earlier version did not write it."""


class PhaseCheckpoint:
    """Read and write one phase's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, config: Mapping[str, Any], machine: Mapping[str, Any]) -> None:
        """Write config.json and machine.json, or check that the run in this folder has the same settings and data.

        `machine` is where the run began, and is kept though it goes on elsewhere.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be made a folder ({error.strerror}). Choose another --out.") from error
        for left_over in self.path.glob("*.tmp"):
            left_over.unlink()
        if not (self.path / "config.json").exists():
            self.write_json("machine.json", machine)
            self.write_json("config.json", config)
            return
        differ = difference(self.config(), json.loads(json.dumps(config)))
        if differ:
            raise UserError(f"{self.path} holds another run: {differ}. Choose another --out, or delete that one.")

    def config(self) -> dict[str, Any]:
        """Return the settings and data of the run in this folder."""
        path = self.path / "config.json"
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is corrupted ({error}). Delete its folder and train again.") from error
        if not isinstance(config, dict):
            raise UserError(f"{path} is corrupted: it holds no object. Delete its folder and train again.")
        return _with_new_names(config)

    def about(self) -> About:
        """Return what config.json tells of the weights in this folder."""
        try:
            return parse(About, self.config())
        except UserError as error:
            raise UserError(f"{self.path / 'config.json'}: {error}") from error

    def has_state(self) -> bool:
        """Whether an epoch was saved here."""
        return (self.path / STATE).exists()

    def save_state(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage, progress: Progress,
        lazy: LazyAdamW | None = None,
    ) -> None:  # fmt: skip
        """Save all that the next epoch depends on.

        That is no state of a random generator: each epoch seeds its own from the seed, the phase and its number, so a
        run goes on alike on any number of processes, whose generators one file could not hold.
        """
        tensors = {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in average.mean.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors |= {f"{LAZY_ADAMW}{name}": tensor for name, tensor in (lazy.state() if lazy else {}).items()}
        self._save(STATE, tensors, {"progress": json.dumps(progress.to_json(), sort_keys=True)})
        self.write_json("train_state.json", progress.to_json())

    def load_state(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage,
        lazy: LazyAdamW | None = None,
    ) -> Progress | None:  # fmt: skip
        """Bring network, optimizers and average to where the saved epoch left them; None without one."""
        path = self.path / STATE
        if not self.has_state():
            return None
        shapes = {name: weight.shape for name, weight in network.state_dict().items()}
        check_weights(path, shapes, "weights.")
        if any(name.startswith("average.") for name in _shapes(path)):  # an earlier version has none
            check_weights(path, {name: mean.shape for name, mean in average.mean.items()}, "average.")
        check_weights(path, _moments(optimizer, _under(_shapes(path), "optimizer.")), "optimizer.")
        if lazy:
            check_weights(path, {name: moment.shape for name, moment in lazy.state().items()}, LAZY_ADAMW)
        tensors = load_tensors(path)
        progress = read_progress(path)
        network.load_state_dict(_under(tensors, "weights."))
        average.load(_under(tensors, "average.") or _under(tensors, "weights."))  # an earlier version has the latter
        load_moments(tensors, progress.steps, optimizer, lazy)
        return progress

    def save_best(self, network: nn.Module) -> None:
        """Save the weights of the best epoch so far."""
        self._save(MODEL, network.state_dict(), None)

    def check_network(self, other: Mapping[str, Any]) -> None:
        """Refuse weights of a network of other settings."""
        differ = difference(self.about().train.network.model_dump(mode="json"), other)
        if differ:
            raise UserError(f"{self.path} holds another network: {differ}. Run the phase 'pretrain' again.")

    def load_best(self, network: nn.Module) -> None:
        """Load the weights of the best epoch."""
        check_weights(self.path / MODEL, {name: weight.shape for name, weight in network.state_dict().items()})
        network.load_state_dict(load_tensors(self.path / MODEL))

    def history(self) -> list[dict[str, Any]]:
        """Return one row per evaluated epoch."""
        if not (self.path / HISTORY).exists():
            return []
        rows: list[dict[str, Any]] = read_tables(self.path, CHECKPOINT).to_pylist()
        return rows

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Replace the history."""
        table = check(pa.Table.from_pylist(rows), CHECKPOINT)
        self._replace(HISTORY, lambda path: pq.write_table(table, path, compression="zstd"))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file."""
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        self._replace(name, lambda path: path.write_text(text))

    def _save(self, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        self._replace(name, lambda path: save_file(plain, path, metadata))

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        partial = self.path / f"{name}.tmp"
        write(partial)
        partial.replace(self.path / name)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors, names of earlier versions as they are now, or say that it is corrupted."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is corrupted ({error}). Delete its folder and train again.") from error
    return {_new_tensor_name(name): tensor for name, tensor in tensors.items()}


def check_weights(path: Path, wanted: Mapping[str, tuple[int, ...]], prefix: str = "") -> None:
    """Compare the names and shapes in a file's header with those that a network has; say which does not fit.

    No weight is read: what does not fit costs no memory. `prefix` begins the names that are looked at.
    """
    held = _under(_shapes(path), prefix)
    for name in sorted(held.keys() | wanted.keys()):
        there, needed = held.get(name), wanted.get(name)
        if there is None or needed is None or there != tuple(needed):
            raise UserError(
                f"{path} holds the weights of another network: tensor {name} is {_shape(there)} in it, and "
                f"{_shape(needed)} in the network of its settings and items. Delete its folder and train again."
            )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by its present name, from the file's header."""
    try:
        with safe_open(path, framework="pt") as file:
            return {_new_tensor_name(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is corrupted ({error}). Delete its folder and train again.") from error


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"


def _moments(optimizer: torch.optim.Optimizer, held: Iterable[str]) -> dict[str, torch.Size]:
    """Return name and shape of the moments of each parameter of AdamW that `held` has anything of."""
    numbers = {name.partition(".")[0] for name in held}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        f"{number}.{name}": torch.Size() if name == "step" else parameter.shape
        for number, parameter in enumerate(parameters)
        for name in ("step", "exp_avg", "exp_avg_sq")
        if str(number) in numbers
    }


def load_moments(
    tensors: Mapping[str, Tensor], steps: int, optimizer: torch.optim.Optimizer, lazy: LazyAdamW | None
) -> None:
    """Let the optimizers go on after so many steps; `tensors` are those of a train state."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimizer.").items():
        index, _, field = name.partition(".")
        state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    if lazy:
        lazy.load(_under(tensors, LAZY_ADAMW), steps)


def read_progress(path: Path) -> Progress:
    """Return what a train state tells of its last epoch."""
    with safe_open(path, framework="pt") as file:
        held = file.metadata() or {}
    try:
        return Progress.from_json(json.loads(held["progress"]))
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is corrupted: it tells no progress. Delete its folder and train again.") from error


def _new_tensor_name(name: str) -> str:
    prefix = "weights." if name.startswith("weights.") else ""
    for old, new in OLD_TENSORS.items():
        if name.startswith(prefix + old):
            return prefix + new + name.removeprefix(prefix + old)
    return name


def _with_new_names(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json with settings named as they are now, without those that are gone and did nothing."""
    train = config.get("train")
    if not isinstance(train, dict):
        return config
    kinds: dict[str, type[Config]] = {"network": NetworkConfig, "pretrain": PretrainConfig}
    for section, kind in kinds.items():
        if not isinstance(train.get(section), dict):
            continue
        removed = REMOVED[section]
        kept = {name: value for name, value in train[section].items() if (name, value) not in removed.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the user did not write this file
            train = train | {section: ADDED.get(section, {}) | kind.with_new_names(kept)}
    return config | {"train": train}


def _under(tensors: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def difference(held: Any, other: Any, name: str = "") -> str:
    """Name the first setting that differs, as "train.seed 0 -> 1"; empty when there is none."""
    if isinstance(held, dict) and isinstance(other, dict):
        for key in sorted(held.keys() | other.keys()):
            differ = difference(held.get(key), other.get(key), f"{name}.{key}".lstrip("."))
            if differ:
                return differ
        return ""
    return "" if held == other else f"{name} {held} -> {other}"
