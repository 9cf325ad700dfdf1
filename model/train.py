"""Train both phases: load, loop, save, then evaluate."""

import platform
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data_lake.errors import UserError
from data_lake.manifest import hash_file
from model import parallel
from model.batches import Batch, Sequences, plan, trainable_users
from model.candidates import blocks, find_targets
from model.checkpoint import MODEL, Folder, Progress
from model.config import MACHINE, PhaseConfig, TrainConfig
from model.cooccurrence import start_ids
from model.data import TrainingSet
from model.device import choose_device, use_threads
from model.finetune import Finetune
from model.metrics import METRIC_NAMES, values
from model.network import Network, build_network
from model.objective import Objective, Terms, profile_scopes
from model.pretrain import pretrain_terms
from model.ranking import rank_targets
from model.rows import LazyRows
from model.scoring import NetworkScorer, check_shape

Phase = Literal["pretrain", "finetune"]
TermsOf = Callable[[Network, Objective, Batch, torch.Generator], Terms]

BETAS = (0.9, 0.98)
"""Of Adam, as SASRec has them."""

LEAST = 1e-30
"""Weight of a batch's predictions at least: where all are very old it may underflow."""

SHOWN_EVERY, LOGGED_EVERY = 1.0, 60.0
"""Seconds between two lines on how an epoch goes, on a terminal and elsewhere."""

PHASE_SEED: dict[Phase, int] = {"pretrain": 1, "finetune": 2}


def train(
    data: TrainingSet, cfg: TrainConfig, phase: Phase, folder: Path, pretrained: Path, tensorboard: Path | None = None
) -> None:
    """Run one phase into `folder`, from where it stands there; phase 2 starts from the best weights of `pretrained`.

    With `tensorboard`, each epoch's figures go to event files there, too.
    """
    prepare(data, cfg, phase, folder, pretrained, tensorboard).run()


def prepare(
    data: TrainingSet, cfg: TrainConfig, phase: Phase, folder: Path, pretrained: Path, tensorboard: Path | None = None
) -> "Loop":
    """Return the loop of one phase, before its first epoch; see `train`."""
    use_threads(cfg.threads)
    device = choose_device(cfg.device)
    parallel.start(device)
    torch.manual_seed(_seed(cfg, phase))
    scopes = profile_scopes(data, cfg.aggregate)
    profile_size = data.profiles[scopes[0]].vectors.shape[1] if scopes else 0
    network = build_network(cfg.network, data, profile_size)
    if phase == "finetune":
        if not (pretrained / MODEL).exists():
            raise UserError(f"{pretrained} holds no phase-1 weights. Run the phase 'pretrain' first.")
        before = Folder(pretrained)
        check_shape(before.config(), data, pretrained)
        before.check_network(cfg.network.model_dump(mode="json"))
        before.load_best(network)
        network.add_readers(len(data.domains), cfg.finetune.domain_weight, cfg.finetune.domain_weight_learnt)
    network.to(device)
    run = Folder(folder)
    ids = network.item_vectors.ids
    started = phase == "finetune" or run.has_state()
    if ids is not None and cfg.network.id_start == "cooccurrence" and not started:
        start_ids(ids, data, cfg.seed)
    if cfg.compile and device.type == "cuda":
        for block in network.blocks:
            block.compile(dynamic=True)
    if parallel.rank() == 0:
        later = {"finetune"} if phase == "pretrain" else set[str]()  # phase 1 does not depend on them
        config = {
            "phase": phase, "train": cfg.model_dump(mode="json", exclude=set(MACHINE | later)), "data": data.digest,
            "domains": list(data.domains), "items": data.n_items, "catalogue": data.catalogue,
            "text_size": data.item_vectors.shape[1], "profile_size": profile_size,
        }  # fmt: skip
        if phase == "finetune":
            config["pretrained"] = hash_file(pretrained / MODEL)
        run.open(config, _machine(cfg, device))
    parallel.wait()
    return Loop(data, cfg, phase, network, run, device, tensorboard)


def _machine(cfg: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Return what the last digits of a training depend on besides its settings and data."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": card, "processes": parallel.world(), "threads": torch.get_num_threads(), "compile": cfg.compile,
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
    }  # fmt: skip


class Loop:
    """One phase's epochs. Letters used here: P predictions."""

    def __init__(
        self,
        data: TrainingSet,
        cfg: TrainConfig,
        phase: Phase,
        network: Network,
        folder: Folder,
        device: torch.device,
        tensorboard: Path | None,
    ) -> None:
        self.data, self.cfg, self.phase, self.network = data, cfg, phase, network
        self.folder, self.device, self.tensorboard = folder, device, tensorboard
        self.phase_cfg: PhaseConfig = cfg.pretrain if phase == "pretrain" else cfg.finetune
        self.sequences = Sequences(data, cfg.network.max_length, device)
        self.objective = Objective(data, cfg, device)
        self.terms: TermsOf = pretrain_terms
        if phase == "finetune":
            self.terms = Finetune(network, self.objective, cfg.finetune).terms
        self.users = trainable_users(data)
        if len(self.users) < parallel.world():
            raise UserError(f"only {len(self.users)} users have two training actions; too few to train on.")
        ids, decay = network.item_vectors.ids, self.phase_cfg.weight_decay
        self.rows = LazyRows(ids.weight, BETAS, decay) if ids is not None and ids.weight.requires_grad else None
        network.item_vectors.lazy = self.rows
        self.trained: list[Tensor] = [
            parameter
            for parameter in network.parameters()
            if parameter.requires_grad and not (ids is not None and parameter is ids.weight)
        ]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=self.phase_cfg.learning_rate, betas=BETAS, weight_decay=decay, fused=True
        )
        self.started = time.monotonic()  # of the present epoch
        self.targets = find_targets(data, "validation", cfg.select_users)
        all_blocks = blocks(data, self.targets, [cfg.select_protocol], batch=1024)
        self.blocks = list(islice(all_blocks, parallel.rank(), None, parallel.world()))  # that this process ranks

    def run(self) -> None:
        """Train until the epochs are over or the validation figure stays flat."""
        history = self.folder.history()
        progress = self.folder.load_state(self.network, self.optimizer, self.rows)
        if progress and parallel.rank() == 0:
            print(f"{self.phase}: {progress.epoch} epochs are trained already", file=sys.stderr)
        if progress and len(history) < progress.epoch:  # saved, then stopped before it was evaluated
            history = self._evaluated(progress, history, "trained before")
        while len(history) < self.phase_cfg.epochs and _flat(history) < self.phase_cfg.patience:
            self.started = time.monotonic()
            progress, speed = self.epoch(len(history) + 1, progress.steps if progress else 0, history)
            if parallel.rank() == 0:
                self.folder.save_state(self.network, self.optimizer, progress, self.rows)
            history = self._evaluated(progress, history, speed)
        parallel.wait()  # until the best weights are written

    def epoch(self, epoch: int, steps: int, history: list[dict[str, Any]]) -> tuple[Progress, str]:
        """Train one epoch, after `steps` steps. Returns where it ended and how fast it was, in words."""
        self.network.train()
        seed = _seed(self.cfg, self.phase, epoch)
        torch.manual_seed(seed + parallel.rank())  # afresh each epoch, so that a resumed run drops out the same
        generator = torch.Generator(self.device).manual_seed(seed)  # all processes draw the same negatives
        lengths = self.data.train_end
        batches = plan(self.users, lengths, self.phase_cfg.batch_size, (self.cfg.seed, PHASE_SEED[self.phase], epoch))
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # next-item loss, weight, weighted align loss
        started, done, rate = time.monotonic(), 0, 0.0
        every = SHOWN_EVERY if _over() else LOGGED_EVERY
        shown = started
        for users in batches:
            steps += 1
            rate = self._learning_rate(steps, history)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            share = torch.from_numpy(users[parallel.rank() :: parallel.world()]).to(self.device)
            batch = self.sequences.batch(share, self.cfg.loss)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.bf16 and self.device.type == "cuda"):
                terms = self.terms(self.network, self.objective, batch, generator)
            next_item, weight = parallel.total(torch.stack([terms.next_item, terms.weight]))
            loss = terms.next_item / weight.clamp(min=LEAST) + self.phase_cfg.align_weight * terms.align
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            moved = [*self.trained, self.rows.rows] if self.rows else self.trained
            parallel.sum_gradients(moved)
            if self.phase_cfg.clip:
                torch.nn.utils.clip_grad_norm_(moved, self.phase_cfg.clip)
            self.optimizer.step()
            if self.rows:
                self.rows.step(rate)
            sums += torch.stack([next_item, weight, terms.align.detach() * weight]).double()
            done += len(users)
            if time.monotonic() - shown > every and parallel.rank() == 0:
                shown = time.monotonic()
                self._show_progress(epoch, sums, done, shown - started)
        if self.rows:
            self.rows.settle()
        seconds = time.monotonic() - started
        progress = Progress(epoch, steps, *self._losses(sums), rate)
        return progress, f"{len(self.users) / seconds:.0f} sequences/s"

    def _losses(self, sums: Tensor) -> tuple[float, float, float]:
        """Return the mean loss, and its parts: that of the next item, and the align loss before its weight."""
        next_item, align = float(sums[0] / sums[1]), float(sums[2] / sums[1])
        return next_item + self.phase_cfg.align_weight * align, next_item, align

    def _show_progress(self, epoch: int, sums: Tensor, done: int, seconds: float) -> None:
        line = (
            f"{self.phase} epoch {epoch}: loss {self._losses(sums)[0]:.4f}, {done / seconds:.0f} sequences/s, "
            f"{(len(self.users) - done) * seconds / done:.0f} s left in it"
        )
        print(f"{_over()}{line}", end=" " if _over() else "\n", file=sys.stderr, flush=True)

    def _learning_rate(self, step: int, history: list[dict[str, Any]]) -> float:
        rate = self.phase_cfg.learning_rate
        if self.phase_cfg.warmup_steps:
            rate *= min(1.0, step / self.phase_cfg.warmup_steps)
        return rate * 0.5 ** _halvings(history, self.phase_cfg.halve_after)

    def _evaluated(self, progress: Progress, history: list[dict[str, Any]], speed: str) -> list[dict[str, Any]]:
        """Evaluate the epoch just saved; return the history with its row. Files are written by the first process."""
        by_domain = self.validate()
        value = float(np.float32(np.mean(list(by_domain.values())))) if by_domain else float("nan")
        values_before = [row["value"] for row in history]
        best = not by_domain or not history or value > max(values_before)
        row = {
            "epoch": progress.epoch, "loss": progress.loss, "next_item_loss": progress.next_item_loss,
            "align_loss": progress.align_loss, "learning_rate": progress.learning_rate,
            "protocol": self.cfg.select_protocol, "metric": self.cfg.select_metric,
            "value": value, "best": best,
        }  # fmt: skip
        history = [*history, row]
        if parallel.rank() == 0:
            if best:
                self.folder.save_best(self.network)
                figures = {"phase": self.phase, "epoch": progress.epoch, "protocol": self.cfg.select_protocol}
                self.folder.write_json("metrics.json", figures | {self.cfg.select_metric: by_domain})
            self.folder.write_history(history)
            self._show_in_tensorboard(row, by_domain)
            shown = ", ".join(f"{name} {figure:.4f}" for name, figure in by_domain.items())
            left = (time.monotonic() - self.started) * (self.phase_cfg.epochs - progress.epoch) / 60
            print(
                f"{_over()}{self.phase} epoch {progress.epoch}/{self.phase_cfg.epochs}: loss {progress.loss:.4f}, "
                f"{speed}, at most {left:.1f} min left in this phase, "
                f"validation {self.cfg.select_protocol} {self.cfg.select_metric}: {shown}{' *' if best else ''}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        return history

    def _show_in_tensorboard(self, row: dict[str, Any], by_domain: dict[str, float]) -> None:
        if self.tensorboard is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard needs the package tensorboard. Install it or drop the option.") from error
        figures = {name: row[name] for name in ("loss", "next_item_loss", "align_loss", "learning_rate", "value")}
        figures |= {f"{row['metric']}/{name}": figure for name, figure in by_domain.items()}
        with SummaryWriter(str(self.tensorboard)) as writer:
            for name, figure in figures.items():
                writer.add_scalar(f"{self.phase}/{name}", figure, row["epoch"])

    def validate(self) -> dict[str, float]:
        """Return the chosen figure per domain that has validation targets; each process ranks its part of them."""
        scorer = NetworkScorer(self.network, self.data, self.sequences)
        protocol, metric = self.cfg.select_protocol, METRIC_NAMES.index(self.cfg.select_metric)
        ranked = rank_targets(self.data, self.targets, self.blocks, {self.phase: scorer}, [protocol])
        ranks = torch.from_numpy(ranked[self.phase, protocol].ranks)  # (T,), 0 where another process ranks
        figures = values(parallel.total(ranks.to(self.device)).cpu().numpy())[:, metric]  # (T,)
        return {
            name: float(figures[self.targets.domains == number].mean())
            for number, name in enumerate(self.data.domains)
            if (self.targets.domains == number).any()
        }


def _over() -> str:
    """Return what begins a line that takes the last one's place on a terminal."""
    return "\r" if sys.stderr.isatty() else ""


def _seed(cfg: TrainConfig, phase: Phase, epoch: int = 0) -> int:
    """Return a seed of its own for every epoch, with room for one per process above it."""
    return ((cfg.seed * 10 + PHASE_SEED[phase]) * 100_000 + epoch) * 10_000


def _flat(history: list[dict[str, Any]]) -> int:
    """Epochs since the best one."""
    best = [row["epoch"] for row in history if row["best"]]
    return len(history) - best[-1] if best else 0


def _halvings(history: list[dict[str, Any]], after: int) -> int:
    """How often `after` epochs in a row brought no better figure; the count starts again at each."""
    halvings = flat = 0
    for row in history:
        flat = 0 if row["best"] else flat + 1
        if after and flat == after:
            halvings, flat = halvings + 1, 0
    return halvings
