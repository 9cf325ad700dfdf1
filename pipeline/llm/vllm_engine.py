"""The child process that holds a vLLM engine: answers batches of chats until its parent wants no more.

Run by `pipeline.llm.vllm.VLLM`, never by hand.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from pipeline.llm.generator import CUT, TOO_LONG
from pipeline.processes.worker import Link

FRAME_SECONDS = 0.5
"""How often the parent gets the replies that are finished while others are not."""
SCORED_AT_ONCE = 16
"""Requests whose choices the engine reads at a time."""


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
        scored = [index for index, request in enumerate(requests) if request["choices"]]
        for first in range(0, len(scored), SCORED_AT_ONCE):
            part = scored[first : first + SCORED_AT_ONCE]
            yield {"replies": list(zip(part, self._score([requests[index] for index in part]), strict=True))}
        written = [index for index, request in enumerate(requests) if not request["choices"]]
        for frame in self._write([requests[index] for index in written]):
            yield {"replies": [(written[number], reply) for number, reply in frame["replies"]]}

    def _write(self, requests: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        from vllm.exceptions import VLLMValidationError

        indices = list(range(len(requests)))
        try:
            first = self._enqueue(requests)
        except VLLMValidationError:
            # One prompt too long for the model fails the whole batch, so it is measured and taken out.
            sizes = [len(self._tokens(request)) for request in requests]
            indices = [index for index, size in enumerate(sizes) if size < self.config["max_model_len"]]
            if len(indices) == len(sizes):
                raise
            long = sorted({*range(len(sizes))} - {*indices})
            yield {"replies": [(index, _reply(error=TOO_LONG, tokens_in=sizes[index])) for index in long]}
            first = self._enqueue([requests[index] for index in indices])
        for outputs in self._finished():
            yield {"replies": [(indices[int(output.request_id) - first], self._written(output)) for output in outputs]}

    def _score(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a reply per request: {"scores": [...]}, the mean log-probability of the tokens of each choice."""
        tokenizer = self.llm.get_tokenizer()
        replies, asked = [_reply(error=TOO_LONG)] * len(requests), []
        for index, request in enumerate(requests):
            chat = self._tokens(request)
            if len(chat) + request["max_tokens"] < self.config["max_model_len"]:
                for choice in request["choices"]:
                    tokens = tokenizer.encode(choice, add_special_tokens=False)[: request["max_tokens"]]
                    asked.append((index, chat, tokens))
        read = self._read_choices([(chat, tokens) for _, chat, tokens in asked])
        for index, part in groupby(zip(asked, read, strict=True), key=lambda each: each[0][0]):
            theirs = list(part)
            replies[index] = _reply(
                json.dumps({"scores": [round(score, 4) for _, (score, _) in theirs]}),
                tokens_in=sum(len(chat) + len(tokens) for (_, chat, tokens), _ in theirs),
                tokens_cached=sum(cached for _, (_, cached) in theirs),
            )
        return replies

    def _read_choices(self, asked: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, int]]:
        """Return, per chat and choice, the mean log-probability of the choice's tokens, and the tokens found cached.

        vLLM tells nothing of the tokens that its prefix cache holds. So a choice is read again without the cache where
        that held the whole chat.
        """
        outputs = self._read([chat + choice for chat, choice in asked], with_cache=True)
        hidden = [i for i, (chat, _) in enumerate(asked) if (outputs[i].num_cached_tokens or 0) >= len(chat)]
        again = self._read([asked[i][0] + asked[i][1] for i in hidden], with_cache=False)
        for i, output in zip(hidden, again, strict=True):
            outputs[i] = output
        found = []
        for (_, choice), output in zip(asked, outputs, strict=True):
            told = zip(output.prompt_logprobs[-len(choice) :], choice, strict=True)
            score = sum(each[token].logprob for each, token in told) / len(choice)
            found.append((score, output.num_cached_tokens or 0))
        return found

    def _read(self, prompts: Sequence[list[int]], with_cache: bool) -> list[Any]:
        """Return what vLLM tells of prompts, how likely each of their tokens was included."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,  # where the cache held tokens vLLM tells numbers that are none
            skip_reading_prefix_cache=not with_cache,
        )
        given = [{"prompt_token_ids": tokens} for tokens in prompts]
        return list(self.llm.generate(given, sampling, use_tqdm=False)) if given else []

    def _enqueue(self, requests: Sequence[dict[str, Any]]) -> int:
        """Hand the requests to the engine and return the id of the first; those of the others count up from there."""
        first: int = self.llm.request_counter.counter
        if requests:
            self.llm.enqueue_chat(
                [request["messages"] for request in requests],
                [self._sampling(_dumped(request["schema"]), request["max_tokens"]) for request in requests],
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
    def _sampling(self, schema: str | None, max_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        temperature = self.config["temperature"]
        return SamplingParams(
            temperature=temperature,
            top_p=self.config["top_p"],
            # vLLM's CPU build dies of a request's own seed where it samples.
            seed=self.config["seed"] if temperature > 0 and not self.is_cpu else None,
            max_tokens=max_tokens,
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
        )

    def _tokens(self, request: dict[str, Any]) -> list[int]:
        tokenizer = self.llm.get_tokenizer()
        text = tokenizer.apply_chat_template(
            request["messages"], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return tokens

    @staticmethod
    def _written(output: Any) -> dict[str, Any]:
        answer = output.outputs[0]
        finished = answer.finish_reason == "stop"
        return _reply(
            text=answer.text if finished else None,
            error=None if finished else CUT if answer.finish_reason == "length" else str(answer.finish_reason),
            tokens_in=len(output.prompt_token_ids),
            tokens_out=len(answer.token_ids),
            tokens_cached=output.num_cached_tokens or 0,
        )


def _dumped(schema: dict[str, Any] | None) -> str | None:
    return None if schema is None else json.dumps(schema)


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
