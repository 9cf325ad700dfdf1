"""One phase's epochs: load, loop, save, then evaluate."""

import sys
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_lake.errors import UserError
from data_lake.progress import progress as showing
from model import parallel
from model.checkpoint import PhaseCheckpoint, Progress
from model.config import PhaseConfig, TrainConfig
from model.data.batches import epoch_batches, trainable_users
from model.data.sequences import Sequences
from model.data.training_set import TrainingSet
from model.evaluation.candidates import blocks, find_targets
from model.evaluation.metrics import METRIC_NAMES, compute_metrics
from model.evaluation.ranking import rank_targets
from model.evaluation.scoring import NetworkScorer
from model.lazy_adamw import LazyAdamW
from model.loss.objective import LossTerms, Objective, Phase
from model.network.network import Encoded, Network
from model.training.domain_finetuning import DomainFinetuning
from model.training.report import Report
from model.training.shared_pretraining import SharedPretraining
from model.training.warm_start import WarmStart, warm_epochs
from model.weight_average import WeightAverage

PhaseName = Literal["pretrain", "finetune"]
History = list[dict[str, Any]]
"""One row per evaluated epoch, as the table `pretrained` or `checkpoint` has it."""

BETAS = (0.9, 0.98)
"""Of Adam, as SASRec has them."""

LEAST = 1e-30
"""Weight of a batch's predictions at least: where all are very old it may underflow."""

PHASE_SEED: dict[PhaseName, int] = {"pretrain": 1, "finetune": 2}


class PhaseTrainer:
    """Trains one phase of a network, on the device where the network is."""

    def __init__(
        self, data: TrainingSet, cfg: TrainConfig, phase: PhaseName, network: Network, checkpoint: PhaseCheckpoint,
        tensorboard: Path | None, warm: WarmStart | None = None,
    ) -> None:  # fmt: skip
        self.data, self.cfg, self.phase, self.network, self.checkpoint = data, cfg, phase, network, checkpoint
        self.device = network.positions.weight.device
        self.phase_cfg: PhaseConfig = cfg.pretrain if phase == "pretrain" else cfg.finetune
        self.warm = warm
        self.epochs = warm_epochs(self.phase_cfg.epochs) if warm else self.phase_cfg.epochs
        self.learning_rate = warm.progress.learning_rate if warm else self.phase_cfg.learning_rate
        self.sequences = Sequences(data, cfg.network.max_length, self.device)
        self.objective = Objective(data, cfg, self.phase_cfg, self.device)
        self.users = trainable_users(data)
        if len(self.users) < parallel.world():
            raise UserError(f"only {len(self.users)} users have two training actions; too few to train on.")
        catalogue = self.objective.catalogue
        self.reader: Phase = SharedPretraining(network, catalogue)
        if phase == "finetune":
            self.reader = DomainFinetuning(network, catalogue, self.sequences, self.users, cfg.finetune)
        self._make_optimizers()
        self.average = WeightAverage(network, self.phase_cfg.average_epochs)
        self.targets = find_targets(data, "validation", cfg.select_users)
        all_blocks = blocks(data, self.targets, [cfg.select_protocol], batch=1024)
        self.blocks = list(islice(all_blocks, parallel.rank(), None, parallel.world()))  # that this process ranks
        self.encoded: dict[bytes, Encoded] | None = {} if phase == "finetune" else None  # as the scorer holds it
        self.report = Report(phase, self.epochs, tensorboard)

    def _make_optimizers(self) -> None:
        """Id vectors are stepped by `LazyAdamW`, all else that is trained by AdamW."""
        ids, decay = self.network.item_vectors.ids, self.phase_cfg.weight_decay
        self.lazy: LazyAdamW | None = None
        if ids is not None and ids.weight.requires_grad:
            self.lazy = LazyAdamW(ids.weight, BETAS, decay)
            self.network.item_vectors.look_up = self.lazy.take
        self.trained: list[Tensor] = [
            parameter
            for parameter in self.network.parameters()
            if parameter.requires_grad and not (ids is not None and parameter is ids.weight)
        ]
        rate = self.phase_cfg.learning_rate
        self.optimizer = torch.optim.AdamW(self.trained, lr=rate, betas=BETAS, weight_decay=decay, fused=True)

    def run(self) -> None:
        """Train until the epochs are over or the validation figure stays flat."""
        history = self.checkpoint.history()
        progress = self.checkpoint.load_state(self.network, self.optimizer, self.average, self.lazy)
        steps = progress.steps if progress else 0
        if self.warm and not progress:
            self.warm.load(self.network, self.optimizer, self.average, self.lazy)
            steps = self.warm.progress.steps
        if progress and parallel.rank() == 0:
            print(f"{self.phase}: {progress.epoch} epochs are trained already", file=sys.stderr)
        if progress and len(history) < progress.epoch:  # saved, then stopped before it was evaluated
            history = self._evaluate(progress, history, "trained before")
        with showing("training", self.epochs, "epochs", len(history)) as work:
            while len(history) < self.epochs and epochs_since_best(history) < self.phase_cfg.patience:
                work.least = len(history) - epochs_since_best(history) + self.phase_cfg.patience
                with work.part():
                    progress, speed = self.epoch(len(history) + 1, steps, history)
                    steps = progress.steps
                    self.average.update(progress.epoch + (self.warm.progress.epoch if self.warm else 0))
                    if parallel.rank() == 0:
                        self.checkpoint.save_state(self.network, self.optimizer, self.average, progress, self.lazy)
                    history = self._evaluate(progress, history, speed)
        parallel.barrier()  # until the best weights are written

    def epoch(
        self, epoch: int, steps: int, history: History, users: NDArray[np.int64] | None = None
    ) -> tuple[Progress, str]:
        """Train one epoch on `users`, by default all, after `steps` steps.

        Returns where it ended and how fast it was, in words.
        """
        users = self.users if users is None else users
        self.network.train()
        seed = seed_of(self.cfg, self.phase, epoch)
        torch.manual_seed(seed + parallel.rank())  # afresh each epoch, so that a resumed run drops out the same
        generator = torch.Generator(self.device).manual_seed(seed)  # all processes draw the same negatives
        rate = self.learning_rate * 0.5 ** halvings(history, self.phase_cfg.lr_patience)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        order = (self.cfg.seed, PHASE_SEED[self.phase], epoch)
        batches = epoch_batches(users, self.data.train_end, self.phase_cfg.batch_size, order)
        sums = torch.zeros(1 + len(self.objective.factors), dtype=torch.float64, device=self.device)
        self.report.start(epoch, len(users))
        with showing(f"epoch {epoch}", len(batches), "steps") as work:
            for batch in batches:
                sums += self._step(batch, generator, rate)
                if self.report.is_due(len(batch)):
                    work.note = self.report.note(self._losses(sums)[0])
                work.advance()
        if self.lazy:
            self.lazy.flush()
        return Progress(epoch, steps + len(batches), *self._losses(sums), rate), self.report.speed()

    def _step(self, users: NDArray[np.int64], generator: torch.Generator, rate: float) -> Tensor:
        """Learn from one batch of users. Returns what `_losses` averages: the weight, then each part times it."""
        mine = torch.from_numpy(users[parallel.rank() :: parallel.world()]).to(self.device)
        batch = self.sequences.batch(mine, self.cfg.loss)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.bf16 and self.device.type == "cuda"):
            terms = self.objective.terms(self.reader, batch, generator)
        next_item, weight = parallel.all_reduce_sum(torch.stack([terms.next_item, terms.weight]))
        self._descend(terms, weight, rate)
        return torch.stack([weight, next_item, *(term.detach() * weight for term in terms.extra.values())]).double()

    def _descend(self, terms: LossTerms, weight: Tensor, rate: float) -> None:
        """Take one step down the loss. weight: that of the predictions of all processes."""
        loss = terms.next_item / weight.clamp(min=LEAST)
        for name, term in terms.extra.items():
            loss = loss + self.objective.factors[name] * term
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        moved = [*self.trained, self.lazy.rows] if self.lazy else self.trained
        parallel.sum_gradients(moved)
        if self.phase_cfg.clip:
            torch.nn.utils.clip_grad_norm_(moved, self.phase_cfg.clip)
        self.optimizer.step()
        if self.lazy:
            self.lazy.step(rate)

    def _losses(self, sums: Tensor) -> tuple[float, dict[str, float]]:
        """Return the mean loss of the batches behind `sums`, and its parts by name, each before its weight."""
        weight, *totals = sums
        factors = self.objective.factors
        parts = {name: float(total / weight) for name, total in zip(factors, totals, strict=True)}
        return sum(factors[name] * part for name, part in parts.items()), parts

    def _evaluate(self, progress: Progress, history: History, speed: str) -> History:
        """Evaluate the mean weights after the epoch just saved, and keep them if they are the best.

        Returns the history with its row. Files are written by the first process.
        """
        with self.average.in_place():
            return self._evaluate_as_is(progress, history, speed)

    def _evaluate_as_is(self, progress: Progress, history: History, speed: str) -> History:
        by_domain = self.validate()
        value = float(np.float32(np.mean(list(by_domain.values())))) if by_domain else float("nan")
        best = not by_domain or not history or value > max(row["value"] for row in history)
        protocol, metric = self.cfg.select_protocol, self.cfg.select_metric
        row = {
            "epoch": progress.epoch, **progress.losses(), "learning_rate": progress.learning_rate,
            "protocol": protocol, "metric": metric, "value": value, "best": best,
        }  # fmt: skip
        history = [*history, row]
        if parallel.rank() == 0:
            if best:
                self.checkpoint.save_best(self.network)
                figures = {"phase": self.phase, "epoch": progress.epoch, "protocol": protocol, metric: by_domain}
                self.checkpoint.write_json("metrics.json", figures)
            self.checkpoint.write_history(history)
            self.report.epoch(progress, row, by_domain, speed)
        return history

    def validate(self) -> dict[str, float]:
        """Return the chosen figure per domain that has validation targets; each process ranks its part of them."""
        scorer = NetworkScorer(self.network, self.data, self.sequences, self.encoded)
        protocol, metric = self.cfg.select_protocol, METRIC_NAMES.index(self.cfg.select_metric)
        ranked = rank_targets(self.data, self.targets, self.blocks, {self.phase: scorer}, [protocol])
        ranks = torch.from_numpy(ranked[self.phase, protocol].ranks)  # (T,), 0 where another process ranks
        ranks = parallel.all_reduce_sum(ranks.to(self.device)).cpu()
        figures = compute_metrics(ranks.numpy())[:, metric]  # (T,)
        return {
            name: float(figures[self.targets.domains == number].mean())
            for number, name in enumerate(self.data.domains)
            if (self.targets.domains == number).any()
        }


def seed_of(cfg: TrainConfig, phase: PhaseName, epoch: int = 0) -> int:
    """Return a seed of its own for every epoch, with room for one per process above it."""
    return ((cfg.seed * 10 + PHASE_SEED[phase]) * 100_000 + epoch) * 10_000


def epochs_since_best(history: History) -> int:
    """Epochs since the best one; 0 without any."""
    best = [row["epoch"] for row in history if row["best"]]
    return len(history) - best[-1] if best else 0


def halvings(history: History, patience: int) -> int:
    """How often `patience` epochs in a row brought no better figure; the count starts again at each. 0: never."""
    count = flat = 0
    for row in history:
        flat = 0 if row["best"] else flat + 1
        if patience and flat == patience:
            count, flat = count + 1, 0
    return count
