"""A limit to what a run asks a language model."""

from collections.abc import Sequence

from data_lake.errors import UserError
from pipeline.llm.generator import Generator, OnReply, Reply, Request, no_listener
from pipeline.llm.generator_wrapper import GeneratorWrapper
from pipeline.llm.tokens import MARGIN


class Budget(GeneratorWrapper):
    """A `Generator` that sends so many requests at most, and only what its tokens suffice for at worst.

    A request takes its prompt and `max_tokens` at worst. It is sent where that is left, and then what it really took is
    counted; where the model's tokenizer is not known, a byte of the prompt is taken for a token. Where a reply does not
    say what it took, the worst counts, unless the request failed otherwise than by a timeout. The first request that
    does not fit raises UserError, after `on_reply` was told of all before it. A limit of 0 is none.
    """

    def __init__(self, generator: Generator, max_requests: int, max_tokens: int) -> None:
        super().__init__(generator)
        self._max_requests, self._max_tokens = max_requests, max_tokens
        self._requests = self._tokens = 0

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order; several calls share what there is."""
        at_worst = self._at_worst(requests)
        replies: list[Reply] = []
        while (start := len(replies)) < len(requests):
            end = start + self._affordable(at_worst[start:])
            if end == start:
                raise UserError(self._spent(at_worst[start]))

            def tell(index: int, reply: Reply, start: int = start) -> None:
                on_reply(start + index, reply)

            self._requests += end - start
            replies += self._generator(requests[start:end], tell)
            self._tokens += sum(map(_taken, replies[start:], at_worst[start:end]))
        return replies

    def _at_worst(self, requests: Sequence[Request]) -> list[int]:
        if not self._max_tokens:
            return [0] * len(requests)
        if self.tokens.is_estimate:
            sizes = [sum(len(message["content"].encode()) for message in each.messages) for each in requests]
        else:
            sizes = self.tokens.count(requests)
        return [size + MARGIN + request.max_tokens for size, request in zip(sizes, requests, strict=True)]

    def _affordable(self, at_worst: Sequence[int]) -> int:
        """Return how many of the next requests can be sent at once."""
        count, tokens = 0, self._tokens
        for most in at_worst:
            tokens += most
            if self._max_requests and self._requests + count == self._max_requests:
                break
            if self._max_tokens and tokens > self._max_tokens:
                break
            count += 1
        return count

    def _spent(self, next_at_worst: int) -> str:
        if self._max_requests and self._requests == self._max_requests:
            why = f"[llm] max_run_requests = {self._max_requests}: all of them are sent"
        else:
            why = (
                f"[llm] max_run_tokens = {self._max_tokens}: {self._tokens} are spent, and the next request may take "
                f"{next_at_worst}"
            )
        return f"{why}. What was answered is kept: run again to ask for more, or raise the limit."


def _taken(reply: Reply, at_worst: int) -> int:
    if reply.tokens_in or reply.tokens_out:
        return reply.tokens_in + reply.tokens_out
    return at_worst if reply.error in (None, "timeout") else 0
