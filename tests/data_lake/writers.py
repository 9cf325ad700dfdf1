"""Writers of one dataset that come at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from data_lake.errors import UserError
from data_lake.lake import Lake

WRITERS = 8


def one_of_many_gets_the_lock(url: str, folder: Path) -> bool:
    """Let writers of eight machines take the dataset "shop" at once; return whether exactly one got it."""
    ready, tried = Barrier(WRITERS), Barrier(WRITERS)

    def write(number: int) -> bool:
        lake = Lake(url, "shop", cache=folder / str(number))
        ready.wait()
        try:
            with lake.lock():
                tried.wait()
                return True
        except UserError:
            tried.wait()
            return False

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(write, range(WRITERS))) == 1
