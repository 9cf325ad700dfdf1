"""The folder of a phase: weights, train state, settings, metrics and history, each file replaced as a whole.

No file holds a time, a duration or a path: the same run writes the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_lake.errors import UserError
from data_lake.schemas import CHECKPOINT
from data_lake.tables import check, read_tables
from model.rows import LazyRows

HISTORY = "history.parquet"
MODEL = "model.safetensors"
STATE = "train_state.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a phase stands: what its last finished epoch was and how it went."""

    epoch: int
    steps: int
    loss: float
    next_item_loss: float
    align_loss: float
    learning_rate: float


class Folder:
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
        differ = _difference(self.config(), json.loads(json.dumps(config)))
        if differ:
            raise UserError(f"{self.path} holds another run: {differ}. Choose another --out, or delete that one.")

    def config(self) -> dict[str, Any]:
        """Return the settings and data of the run in this folder."""
        config: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return config

    def has_state(self) -> bool:
        """Whether an epoch was saved here."""
        return (self.path / STATE).exists()

    def save_state(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, rows: LazyRows | None = None
    ) -> None:
        """Save all that the next epoch depends on.

        That is no state of a random generator: each epoch seeds its own from the seed, the phase and its number, so a
        run goes on alike on any number of processes, whose generators one file could not hold.
        """
        tensors = {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors |= {f"rows.{name}": tensor for name, tensor in (rows.state() if rows else {}).items()}
        state_json = json.dumps(asdict(progress), sort_keys=True)
        self._save(STATE, tensors, {"progress": state_json})
        self.write_json("train_state.json", asdict(progress))

    def load_state(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, rows: LazyRows | None = None
    ) -> Progress | None:
        """Bring network, optimizer and rows to where the saved epoch left them; None without one."""
        path = self.path / STATE
        if not self.has_state():
            return None
        tensors = load_tensors(path)
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
        network.load_state_dict(_under(tensors, "weights."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(tensors, "optimizer.").items():
            index, _, field = name.partition(".")
            state.setdefault(int(index), {})[field] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        if rows:
            rows.load(_under(tensors, "rows."), progress.steps)
        return progress

    def save_best(self, network: nn.Module) -> None:
        """Save the weights of the best epoch so far."""
        self._save(MODEL, network.state_dict(), None)

    def check_network(self, wanted: Mapping[str, Any]) -> None:
        """Refuse weights of a network of other settings."""
        differ = _difference(self.config()["train"]["network"], wanted)
        if differ:
            raise UserError(f"{self.path} holds another network: {differ}. Run the phase 'pretrain' again.")

    def load_best(self, network: nn.Module) -> None:
        """Load the weights of the best epoch."""
        network.load_state_dict(load_tensors(self.path / MODEL))

    def history(self) -> list[dict[str, Any]]:
        """Return one row per evaluated epoch."""
        if not (self.path / HISTORY).exists():
            return []
        rows: list[dict[str, Any]] = read_tables(self.path, CHECKPOINT).to_pylist()
        return rows

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Replace the history."""
        table = check(pa.Table.from_pylist(rows, schema=CHECKPOINT.tables[""]), CHECKPOINT)
        self._replace(HISTORY, lambda path: pq.write_table(table, path, compression="zstd"))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file."""
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        self._replace(name, lambda path: path.write_text(text))

    def _save(self, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        self._replace(name, lambda path: save_file(plain, path, metadata))

    def _replace(self, name: str, write: Any) -> None:
        partial = self.path / f"{name}.tmp"
        write(partial)
        partial.replace(self.path / name)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors, or say that it is harmed."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is harmed ({error}). Delete its folder and train again.") from error
    return tensors


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _difference(held: Any, wanted: Any, name: str = "") -> str:
    """Name the first setting that differs, as "train.seed 0 -> 1"; empty when there is none."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in sorted(held.keys() | wanted.keys()):
            differ = _difference(held.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
            if differ:
                return differ
        return ""
    return "" if held == wanted else f"{name} {held} -> {wanted}"
