"""How much text fits into a prompt, by the model's own tokenizer where there is one."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from data_lake.errors import UserError
from pipeline.llm.generator import Message, Request
from pipeline.llm.prompts import quoted

CHARACTERS = 4
"""Of a token, where no tokenizer is known."""
MARGIN = 16
"""Tokens that stay free: a server's chat template may differ a little from the one in the tokenizer's folder."""
BATCH = 512
MOST_KEPT = 200_000
SYSTEM_AND_USER: list[Message] = [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]
"""The roles of every prompt."""


class Characters:
    """Without a tokenizer: four characters are a token, and whether a prompt fits is for the endpoint to say."""

    is_estimate = True

    def quoted(self, texts: Iterable[str], tokens: int) -> Mapping[str, str]:
        """Return each text as one line of JSON, cut to four times `tokens` characters."""
        return {text: quoted(text, CHARACTERS * tokens) for text in texts}

    def fits(self, requests: Sequence[Request]) -> list[bool]:
        """Say yes."""
        return [True] * len(requests)

    def count(self, requests: Sequence[Request]) -> list[int]:
        """Return an estimate: a quarter of the characters."""
        return [sum(len(message["content"]) for message in each.messages) // CHARACTERS for each in requests]


BY_CHARACTERS = Characters()


class ModelTokens:
    """A model's tokenizer with its chat template, loaded when first needed. `source` is a folder or a hub name."""

    is_estimate = False

    def __init__(self, source: str, revision: str | None, max_model_len: int) -> None:
        self.source, self.revision, self.max_model_len = source, revision, max_model_len
        self._lines: dict[tuple[str, int], str] = {}

    def quoted(self, texts: Iterable[str], tokens: int) -> Mapping[str, str]:
        """Return each text as one line of JSON of at most `tokens` tokens; of a text too long the beginning."""
        distinct = list(dict.fromkeys(texts))
        if len(self._lines) > MOST_KEPT:
            self._lines.clear()
        # No token is longer than 16 characters in running text: what lies behind is cut unseen.
        pending = {text: 16 * tokens for text in distinct if (text, tokens) not in self._lines}
        while pending:
            made = {text: quoted(text, characters) for text, characters in pending.items()}
            sizes = dict(zip(made, self._sizes(list(made.values())), strict=True))
            over = {text for text, size in sizes.items() if size > tokens and pending[text] > 1}
            self._lines |= {(text, tokens): line for text, line in made.items() if text not in over}
            pending = {
                text: max(1, min(len(made[text]) - 3, pending[text] - 1) * tokens // sizes[text]) for text in over
            }
        return {text: self._lines[text, tokens] for text in distinct}

    def fits(self, requests: Sequence[Request]) -> list[bool]:
        """Say of each request whether its prompt and `max_tokens` fit into `max_model_len`.

        Only prompts that may not fit are tokenized: an ASCII text has no more tokens than characters.
        """
        room = [self.max_model_len - MARGIN - request.max_tokens for request in requests]
        fits = [self._most(request) <= free for request, free in zip(requests, room, strict=True)]
        unsure = [index for index, sure in enumerate(fits) if not sure]
        for index, size in zip(unsure, self._chats([requests[index] for index in unsure]), strict=True):
            fits[index] = size <= room[index]
        return fits

    def count(self, requests: Sequence[Request]) -> list[int]:
        """Return the tokens of each request's prompt, chat template included: with choices one prompt for each."""
        choices = iter(self._sizes([choice for request in requests for choice in request.choices]))
        return [
            size * max(len(request.choices), 1) + sum(next(choices) for _ in request.choices)
            for request, size in zip(requests, self._chats(requests), strict=True)
        ]

    def _chats(self, requests: Sequence[Request]) -> list[int]:
        sizes: list[int] = []
        for start in range(0, len(requests), BATCH):
            sizes += self._sizes([self._chat(each.messages) for each in requests[start : start + BATCH]])
        return sizes

    def _most(self, request: Request) -> float:
        texts = [message["content"] for message in request.messages]
        return sum(map(len, texts)) + self._template if all(map(str.isascii, texts)) else float("inf")

    def _sizes(self, texts: list[str]) -> list[int]:
        if not texts:
            return []
        return list(map(len, self._tokenizer(texts, add_special_tokens=False).input_ids))

    def _chat(self, messages: Sequence[Message]) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return text

    @cached_property
    def _template(self) -> int:
        """Characters that the chat template adds to a system and a user message."""
        return len(self._chat(SYSTEM_AND_USER))

    @cached_property
    def _tokenizer(self) -> Any:
        from jinja2 import TemplateError
        from transformers import AutoTokenizer

        is_folder = Path(self.source).is_dir()
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.source, revision=self.revision, local_files_only=is_folder)
        except (OSError, ValueError) as error:
            why = str(error).partition("\n")[0]
            if is_folder:
                raise UserError(
                    f"{self.source}: the folder has no tokenizer that can be read ({why}). Put the model's "
                    "tokenizer.json and tokenizer_config.json there."
                ) from error
            raise UserError(
                f"{self.source}, revision {self.revision}: neither the hub nor what was downloaded before yields its "
                f"tokenizer ({why}). Download it where there is a network (hf download {self.source} --revision "
                f"{self.revision}), or set [llm] model to a folder that holds the model."
            ) from error
        if not tokenizer.chat_template:
            raise UserError(f"{self.source}: its tokenizer has no chat template; choose a model made for chats.")
        try:
            tokenizer.apply_chat_template(SYSTEM_AND_USER, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise UserError(
                f"{self.source}: its chat template refuses a system message ({error}), with which every prompt here "
                "begins. Choose a model whose template takes one, or give a folder whose chat_template.jinja puts that "
                "message before the user's text."
            ) from error
        return tokenizer
