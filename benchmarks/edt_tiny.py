"""Ask edt-tiny through vLLM about shoppers that it has never seen, and judge the answers by the simulator's law.

python -m benchmarks.edt_tiny
python -m benchmarks.edt_tiny --lessons 64 --model some/folder
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import LLMConfig
from pipeline.llm.reading import BadReply, read_reply
from pipeline.llm.vllm import VLLM
from pipeline.sample_world.edt_tiny import DOMAINS, POSITIONS
from pipeline.sample_world.edt_tiny.lessons import Lesson, lessons
from pipeline.sample_world.words import TASTES, taste_of

SEED = 7
"""No seed of the training, which starts from [1, 0], [1, 1] and [1, 2]."""


@dataclass
class Tally:
    """How the replies to one kind of question are."""

    asked: int = 0
    usable: int = 0
    answers: int = 0
    right: int = 0
    """Answers of a taste that the right reply shows, too."""
    by_chance: float = 0.0
    """How many answers would be right if their tastes were drawn at random."""

    def add(self, lesson: Lesson, reply: str) -> None:
        """Count the reply to a lesson's request."""
        self.asked += 1
        try:
            texts = read_reply(reply, lesson.request).texts
        except BadReply:
            return
        self.usable += 1
        found, wanted = _tastes(lesson, texts)
        self.answers += len(found)
        self.right += sum(taste in wanted for taste in found)
        self.by_chance += len(found) * len(wanted) / len(TASTES)

    def __str__(self) -> str:
        """Such as "171 asked, usable 1.000, tastes right 0.950 of 1,710 (by chance 0.110)"."""
        answers = max(self.answers, 1)
        return (
            f"{self.asked:>5} asked, usable {self.usable / self.asked:.3f}, "
            f"tastes right {self.right / answers:.3f} of {self.answers:,} (by chance {self.by_chance / answers:.3f})"
        )


def main() -> None:
    """Print valid replies, answers of a right taste against chance, and requests per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lessons", type=int, default=512)
    parser.add_argument("--model", default="edt-tiny")
    given = parser.parse_args()
    rng = np.random.default_rng(SEED)
    asked: list[Lesson] = []
    while len(asked) < given.lessons:
        asked += lessons(16, rng)
    vllm = VLLM(LLMConfig(model=given.model, max_model_len=POSITIONS))
    requests = [lesson.request for lesson in asked]
    try:
        begin = time.monotonic()
        vllm(requests[:1])
        start, begin = time.monotonic() - begin, time.monotonic()
        replies = vllm(requests)
        seconds = time.monotonic() - begin
    finally:
        vllm.close()
    tallies: dict[str, Tally] = {}
    for lesson, reply in zip(asked, replies, strict=True):
        tallies.setdefault(lesson.request.question.task, Tally()).add(lesson, reply.text or "")
    for task, tally in sorted(tallies.items()):
        print(f"{task:<15} {tally}")
    tokens_in, tokens_out, cached = (
        sum(getattr(reply, name) for reply in replies) for name in ("tokens_in", "tokens_out", "tokens_cached")
    )
    print(
        f"start {start:.1f} s; {len(asked) / seconds:.1f} requests/s, {tokens_out / seconds:,.0f} tokens/s out; "
        f"a request: {tokens_in / len(asked):.0f} tokens in, {tokens_out / len(asked):.0f} out; "
        f"{cached / tokens_in:.2f} from the prefix cache"
    )


def _tastes(lesson: Lesson, texts: Sequence[str]) -> tuple[list[str | None], set[str | None]]:
    """Return the tastes that a reply shows, and those that the right reply shows."""
    right = json.loads(lesson.reply)
    if lesson.request.question.task != "generate_items":
        return _interests(texts[0]), set(_interests(right["profile"]))
    domain = max(DOMAINS, key=lambda name: sum(taste_of(name, text) is not None for text in right["items"]))
    return [taste_of(domain, text) for text in texts], {taste_of(domain, text) for text in right["items"]}


def _interests(profile: str) -> list[str | None]:
    listed = profile.partition("interests: ")[2].partition(", mostly")[0]
    return [taste for taste in TASTES if taste in listed] or [None]


if __name__ == "__main__":
    main()
