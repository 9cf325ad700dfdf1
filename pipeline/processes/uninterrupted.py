"""Work that Ctrl-C does not cut short, such as writing down what was paid for."""

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def uninterrupted(work: Callable[[], T]) -> T:
    """Return what a short work returns; Ctrl-C meanwhile counts once it is done."""
    if threading.current_thread() is not threading.main_thread():
        return work()  # Python raises KeyboardInterrupt in the main thread alone
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        return work()
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(*came[0])
