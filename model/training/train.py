"""Train one phase into its folder: shared pre-training, or domain fine-tuning over its best weights."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_lake.errors import UserError
from data_lake.manifest import hash_file
from model import parallel
from model.checkpoint import MODEL, PhaseCheckpoint
from model.config import MACHINE, TrainConfig
from model.data.training_set import TrainingSet
from model.device import choose_device, use_threads
from model.evaluation.scoring import check_shape
from model.loss.user_states import profile_scopes
from model.network.id_init import init_ids
from model.network.network import Network, build_network
from model.training.phase_trainer import PhaseName, PhaseTrainer, seed_of
from model.training.warm_start import WarmStart


def train(
    data: TrainingSet, cfg: TrainConfig, phase: PhaseName, folder: Path, pretrained: Path,
    tensorboard: Path | None = None, warm: WarmStart | None = None,
) -> None:  # fmt: skip
    """Run one phase into `folder`, from where it stands there; phase 2 starts from the best weights of `pretrained`.

    With `tensorboard`, each epoch's figures go to event files there, too. With `warm` the phase goes on where an
    earlier one stopped, for a tenth of the epochs; raises UserError where that does not fit.
    """
    prepare(data, cfg, phase, folder, pretrained, tensorboard, warm).run()


def prepare(
    data: TrainingSet, cfg: TrainConfig, phase: PhaseName, folder: Path, pretrained: Path,
    tensorboard: Path | None = None, warm: WarmStart | None = None,
) -> PhaseTrainer:  # fmt: skip
    """Return the trainer of one phase, before its first epoch; see `train`.

    Where the data tells no real times, what counts by days is off, and `config.json` has it so.
    """
    if not data.has_real_times:
        cfg = cfg.without_times()
    use_threads(cfg.threads)
    device = choose_device(cfg.device)
    parallel.start(device)
    torch.manual_seed(seed_of(cfg, phase))
    network = build_network(cfg.network, data, _profile_size(data, cfg))
    checkpoint = PhaseCheckpoint(folder)
    if phase == "finetune":
        _load_pretrained(network, data, cfg, pretrained)
    network.to(device)
    ids = network.item_vectors.ids
    if phase == "pretrain" and ids is not None and cfg.network.id_init == "cooccurrence" and not checkpoint.has_state():
        init_ids(ids, data, cfg.seed)
    config = _config(data, cfg, phase, pretrained)
    if warm:
        warm.check(config, pretrained)
        config["before"] = warm.digest
    if cfg.compile and device.type == "cuda":
        for block in network.blocks:
            block.compile(dynamic=True)
    if parallel.rank() == 0:
        checkpoint.open(config, _machine(cfg, device))
    parallel.barrier()
    return PhaseTrainer(data, cfg, phase, network, checkpoint, tensorboard, warm)


def _profile_size(data: TrainingSet, cfg: TrainConfig) -> int:
    """Return the size of the profile vectors; 0 without any."""
    scopes = profile_scopes(data, cfg.aggregate)
    return data.profiles[scopes[0]].vectors.shape[1] if scopes else 0


def _load_pretrained(network: Network, data: TrainingSet, cfg: TrainConfig, pretrained: Path) -> None:
    """Load phase 1's best weights and add the domain adapters."""
    if not (pretrained / MODEL).exists():
        raise UserError(f"{pretrained} holds no phase-1 weights. Run the phase 'pretrain' first.")
    before = PhaseCheckpoint(pretrained)
    check_shape(before.about(), data, pretrained)
    before.check_network(cfg.network.model_dump(mode="json"))
    before.load_best(network)
    network.add_domain_adapters(len(data.domains), cfg.finetune.domain_weight, cfg.finetune.domain_weight_learnt)


def _config(data: TrainingSet, cfg: TrainConfig, phase: PhaseName, pretrained: Path) -> dict[str, Any]:
    """Return all that the weights of a phase depend on."""
    later = {"finetune"} if phase == "pretrain" else set[str]()  # phase 1 does not depend on them
    config = {
        "phase": phase, "train": cfg.model_dump(mode="json", exclude=set(MACHINE | later)), "data": data.digest,
        "domains": list(data.domains), "items": data.n_items, "catalogue": data.catalogue,
        "text_size": data.item_vectors.shape[1], "profile_size": _profile_size(data, cfg),
    }  # fmt: skip
    return config | ({"pretrained": hash_file(pretrained / MODEL)} if phase == "finetune" else {})


def _machine(cfg: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Return what the last digits of a training depend on besides its settings and data."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": card, "processes": parallel.world(), "threads": torch.get_num_threads(), "compile": cfg.compile,
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
    }  # fmt: skip
