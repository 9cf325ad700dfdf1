"""The child process that holds a vLLM engine: answers batches of chats until its parent wants no more.

Run by `pipeline.llm.vllm.VLLM`, never by hand.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pipeline.llm.generator import CUT, TOO_LONG
from pipeline.processes.worker import Link

FRAME_SECONDS = 0.5
"""How often the parent gets the replies that are finished while others are not."""


class Engine:
    """One `vllm.LLM` and its sampling settings."""

    def __init__(self, config: dict[str, Any]) -> None:
        """`config` is LLMConfig with `model` as vLLM finds it, and `devices`: the GPUs to use, null for all."""
        if config["devices"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = config["devices"]
        from vllm.platforms import current_platform

        self.is_cpu = bool(current_platform.is_cpu())
        eager = config["enforce_eager"]
        if self.is_cpu:
            # In this very process: a process more would take 15 s more to start.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config["cpu_kv_cache_gb"]))
            eager = True if eager is None else eager
        from vllm import LLM

        self.config = config
        self.llm = LLM(
            model=config["model"],
            revision=config["revision"],
            dtype=config["dtype"],
            max_model_len=config["max_model_len"],
            seed=config["seed"],
            tensor_parallel_size=config["tensor_parallel_size"],
            distributed_executor_backend=config["distributed_executor_backend"],
            gpu_memory_utilization=config["gpu_memory_utilization"],
            enforce_eager=bool(eager),
            enable_prefix_caching=True,
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
            disable_log_stats=False,  # else no prompt tells how much of it the prefix cache served
        )

    def answer(self, requests: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield {replies} every `FRAME_SECONDS` as they come, until each request has its own.

        `replies` are pairs of an index among the requests and {text, error, tokens_in, tokens_out, tokens_cached}.
        """
        from vllm.exceptions import VLLMValidationError

        indices = list(range(len(requests)))
        try:
            first = self._enqueue(requests)
        except VLLMValidationError:
            # One prompt too long for the model fails the whole batch, so it is measured and taken out.
            sizes = [self._prompt_tokens(request) for request in requests]
            indices = [index for index, size in enumerate(sizes) if size < self.config["max_model_len"]]
            if len(indices) == len(sizes):
                raise
            long = sorted({*range(len(sizes))} - {*indices})
            yield {"replies": [(index, _reply(error=TOO_LONG, tokens_in=sizes[index])) for index in long]}
            first = self._enqueue([requests[index] for index in indices])
        for outputs in self._finished():
            yield {"replies": [(indices[int(output.request_id) - first], self._read(output)) for output in outputs]}

    def _enqueue(self, requests: Sequence[dict[str, Any]]) -> int:
        """Hand the requests to the engine and return the id of the first; those of the others count up from there."""
        first: int = self.llm.request_counter.counter
        if requests:
            self.llm.enqueue_chat(
                [request["messages"] for request in requests],
                [self._sampling(json.dumps(request["schema"]), request["max_tokens"]) for request in requests],
                use_tqdm=False,
                chat_template_kwargs={"enable_thinking": False},
            )
        return first

    def _finished(self) -> Iterator[list[Any]]:
        """Run the engine until nothing is left to do, and yield every `FRAME_SECONDS` the outputs that are new."""
        engine = self.llm.llm_engine
        outputs: list[Any] = []
        since = time.monotonic()
        while engine.has_unfinished_requests():
            outputs += [output for output in engine.step() if output.finished]
            if outputs and time.monotonic() - since >= FRAME_SECONDS:
                yield outputs
                outputs, since = [], time.monotonic()
        if outputs:
            yield outputs

    @lru_cache(maxsize=1024)  # noqa: B019  (there is one engine per process)
    def _sampling(self, schema: str, max_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        temperature = self.config["temperature"]
        return SamplingParams(
            temperature=temperature,
            top_p=self.config["top_p"],
            # vLLM's CPU build dies of a request's own seed where it samples.
            seed=self.config["seed"] if temperature > 0 and not self.is_cpu else None,
            max_tokens=max_tokens,
            structured_outputs=StructuredOutputsParams(json=schema),
        )

    def _prompt_tokens(self, request: dict[str, Any]) -> int:
        tokenizer = self.llm.get_tokenizer()
        text = tokenizer.apply_chat_template(
            request["messages"], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return len(tokenizer.encode(text, add_special_tokens=False))

    @staticmethod
    def _read(output: Any) -> dict[str, Any]:
        answer = output.outputs[0]
        finished = answer.finish_reason == "stop"
        return _reply(
            text=answer.text if finished else None,
            error=None if finished else CUT if answer.finish_reason == "length" else str(answer.finish_reason),
            tokens_in=len(output.prompt_token_ids),
            tokens_out=len(answer.token_ids),
            tokens_cached=output.num_cached_tokens or 0,
        )


def _reply(
    text: str | None = None, error: str | None = None, tokens_in: int = 0, tokens_out: int = 0, tokens_cached: int = 0
) -> dict[str, Any]:
    return {
        "text": text, "error": error, "tokens_in": tokens_in, "tokens_out": tokens_out, "tokens_cached": tokens_cached,
    }  # fmt: skip


def main() -> None:
    """Build the engine from the first message, then answer batches."""
    link = Link()
    engine = Engine(link.receive())
    while (message := link.receive()) is not None:
        for frame in engine.answer(message["requests"]):
            link.send(frame)
    if engine.is_cpu:
        os._exit(0)  # there is nothing to save, and the interpreter would take 4 s to tidy up


if __name__ == "__main__":
    main()
