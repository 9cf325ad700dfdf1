"""The engine beyond one machine: workers of a Ray cluster make the shards of a stage, each in a run of its own.

A worker opens the same settings and the same lake, a folder that all machines see, and writes finished shards and
replies there as a local run does. So the shards have the same names and bytes, a run that is killed finds what is
finished, and Ray starts what a lost worker had in hand on another one.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from data_lake.errors import UserError
from data_lake.stage_io import OnMade
from flows.run import RunRequest, open_run
from flows.settings import Settings
from flows.stages import SPECS
from flows.text import log

LOCAL = "scale.engine=local"


class RayEngine:
    """Makes shards by workers of the cluster that [scale] names, for the run that was asked for.

    Raises UserError where the settings or the machine cannot do so.
    """

    def __init__(self, request: RunRequest, settings: Settings) -> None:
        if "://" in settings.lake.root:
            raise UserError(
                f'[scale] engine = "ray" needs a lake in a folder that all machines see, and [lake] root is '
                f"{settings.lake.root}. Set it to such a folder."
            )
        if settings.llm.max_run_requests or settings.llm.max_run_tokens:
            raise UserError(
                '[scale] engine = "ray": the limits [llm] max_run_requests and max_run_tokens hold in one process. '
                "Leave them out, or set engine to local."
            )
        self._request = request.model_copy(
            update={"config": request.config.resolve(), "overrides": (*request.overrides, LOCAL)}
        )
        self._scale = settings.scale

    def __call__(self, stage: str, fingerprint: str, shards: Sequence[int], on_made: OnMade) -> None:
        """Make shards of a stage; `on_made` is told of each. Raises UserError as the stage's own work does."""
        ray = _ray()
        scale = self._scale
        if not ray.is_initialized():
            address = scale.address or os.environ.get("RAY_ADDRESS", "local")
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        for handler in logging.getLogger("ray.data").handlers:
            handler.setLevel(logging.CRITICAL)
        spec = next(spec for spec in SPECS if spec.name == stage)
        tasks = [
            {"shards": list(shards[start : start + scale.shards_per_task])}
            for start in range(0, len(shards), scale.shards_per_task)
        ]
        workers = min(scale.workers, len(tasks))
        log(f"{stage}: {len(shards):,} shards are made by at most {workers} worker{'s' * (workers > 1)} of Ray.")
        made = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            ShardMaker,
            fn_constructor_args=(self._request.model_dump(mode="json"), stage, fingerprint),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=scale.cpus_per_worker,
            num_gpus=scale.gpus_per_worker if spec.asks or spec.encodes else 0,
        )
        for task in made.iter_rows():
            if task["error"]:
                raise UserError(task["error"])
            for shard in task["shards"]:
                on_made(int(shard))


class ShardMaker:
    """An actor of the cluster that makes shards of one stage."""

    def __init__(self, request: dict[str, Any], stage: str, fingerprint: str) -> None:
        self._opened = open_run(RunRequest.model_validate(request))
        self._run = self._opened.__enter__()
        self._stage = next(each for each in self._run.stages if each.name == stage)
        self._fingerprint = fingerprint

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """Make the `shards` of each task; return the tasks with the message of a UserError, or an empty one."""
        errors = []
        for shards in tasks["shards"].to_pylist():
            try:
                self._run.lake.make_shards(self._stage, self._fingerprint, shards)
                errors.append("")
            except UserError as error:
                errors.append(str(error))
        return tasks.append_column("error", pa.array(errors, pa.string()))


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # who reaches a cluster without one may run anything on it
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            '[scale] engine = "ray" needs the extra: pip install "llm-edt[ray]", on every machine of the cluster.'
        ) from error
    return ray
