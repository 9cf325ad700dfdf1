"""What a network is computed on."""

import os
from collections.abc import Iterator

import pytest
import torch

from model.device import use_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    yield
    torch.set_num_threads(threads)


def test_processes_of_torchrun_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    use_threads(0)
    assert torch.get_num_threads() == 4


def test_a_set_number_of_threads_is_that_of_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    use_threads(3)
    assert torch.get_num_threads() == 3


def test_one_process_keeps_the_number_of_threads_that_its_environment_chose() -> None:
    torch.set_num_threads(5)
    use_threads(0)
    assert torch.get_num_threads() == 5
