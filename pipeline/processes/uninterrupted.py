"""Work that Ctrl-C does not cut short, such as writing down what was paid for."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def uninterrupted(work: Callable[[], T]) -> T:
    """Return what `work` returns; a KeyboardInterrupt meanwhile is raised once it is done, a second one at once.

    Python raises it in the main thread, and the work is done by another one.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    Thread(target=run, name="uninterrupted", daemon=True).start()
    try:
        return result.result()
    except KeyboardInterrupt:
        wait([result])  # `Thread.join` would not: interrupted once, it takes the thread for ended
        raise
