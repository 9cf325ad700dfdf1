"""Command line: python -m model train | evaluate | compare | recommend."""

import argparse
import os
import sys
from pathlib import Path

# Threads that wait must sleep: spinning ones slow every program on the machine. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

from data_lake.errors import UserError, disk_failure
from data_lake.messages import for_terminal
from data_lake.progress import progress


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Returns 0 done, 2 for a mistake that the user can fix, as argparse does."""
    args = _parser().parse_args(arguments)
    try:
        with progress(args.verb):
            if args.verb == "train":
                _train(args)
            elif args.verb == "evaluate":
                from model.evaluation import evaluate

                evaluate.main(args)
            elif args.verb == "compare":
                from model.evaluation import compare_checkpoints

                compare_checkpoints.main(args)
            else:
                from model import recommend

                recommend.main(args)
    except Exception as error:
        why = str(error) if isinstance(error, UserError) else disk_failure(error)
        if why is None:
            raise
        print(f"error: {for_terminal(why)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, about in (
        ("train", "train both phases, or one"),
        ("evaluate", "rank validation and test targets in every protocol"),
        ("compare", "measure an earlier run beside a newer one, on the newer one's validation targets"),
        ("recommend", "write the best items per user and domain"),
    ):
        sub = verbs.add_parser(verb, help=about, description=about)
        kind = "file" if verb == "compare" else "folder"
        sub.add_argument("--data", type=Path, required=True, help="folder of a training set")
        sub.add_argument("--out", type=Path, required=True, help=f"{kind} to write to")
        sub.add_argument("--config", type=Path, help="JSON file of settings")
        if verb == "train":
            sub.add_argument("--phase", choices=["pretrain", "finetune"], help="default: both, one after the other")
            sub.add_argument("--epochs", type=int, help="epochs of each phase, over what the settings say")
            sub.add_argument("--pretrained", type=Path, help="folder of phase 1 (default OUT/pretrained)")
            sub.add_argument("--checkpoint", type=Path, help="folder of phase 2 (default OUT/checkpoint)")
            sub.add_argument("--tensorboard", type=Path, help="folder for TensorBoard's event files (default: none)")
        else:
            sub.add_argument("--run", type=Path, required=True, help="folder that `train` wrote")
        if verb in ("train", "compare"):
            is_needed, more = verb == "compare", "; goes on from it" if verb == "train" else ""
            sub.add_argument("--before", type=Path, required=is_needed, help=f"folder of an earlier `train`{more}")
            sub.add_argument("--before-data", type=Path, required=is_needed, help="folder of the training set of that")
    return parser


def _train(args: argparse.Namespace) -> None:
    from data_lake.settings_errors import parse
    from model.config import PHASES, TrainConfig
    from model.data.training_set import TrainingSet
    from model.settings import read_settings
    from model.training.phase_trainer import PhaseName
    from model.training.train import train
    from model.training.warm_start import WarmStart

    given = read_settings(args.config)
    cfg = parse(TrainConfig, given)
    if args.epochs is not None:
        for phase in ("pretrain", "finetune"):
            given[phase] = {**given.get(phase, {}), "epochs": args.epochs}
        cfg = parse(TrainConfig, given)
    data = TrainingSet.load(args.data, cfg.stream)
    pretrained = args.pretrained or args.out / "pretrained"
    checkpoint = args.checkpoint or args.out / "checkpoint"
    if (args.before is None) != (args.before_data is None):
        raise UserError("--before and --before-data go together: give both or neither.")
    earlier = TrainingSet.load(args.before_data, cfg.stream) if args.before else None
    folders: dict[PhaseName, Path] = {"pretrain": pretrained, "finetune": checkpoint}
    for phase, folder in folders.items():
        if args.phase in (None, phase):
            warm = WarmStart(args.before / PHASES[phase], earlier, data) if earlier else None
            train(data, cfg, phase, folder, pretrained, args.tensorboard, warm)


if __name__ == "__main__":
    sys.exit(main())
