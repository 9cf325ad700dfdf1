"""Memory is told of the process that is measured, and of no other."""

import re

from tests.benchmarks.conftest import lines_of


def test_the_peak_of_a_process_does_not_count_what_its_parent_held() -> None:
    held = bytearray(b"1") * (400 << 20)
    [line] = lines_of("memory")
    now, peak = map(float, re.findall(r"[\d.]+(?= MiB)", line))
    assert 1 < now <= peak < len(held) >> 20


def test_memory_is_noted_while_prompts_stream_through_the_stage() -> None:
    first, second = lines_of("generation_memory", "--prompts", "100")
    assert re.match(r"100 prompts in [\d.]+ s, \d+/s; peak \d+ MiB above the start's \d+ \(aim: under 1,024\)$", first)
    assert re.match(r"MiB above the start at each tenth: \+\d+$", second)  # all in one shard
