"""Do one thing to many in threads, with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_threads(make: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """Yield what is made of each task, in order: numpy sorts on one core, and lets others run.

    No more than one task a core is begun before its turn, so memory stays bounded.
    """
    num_threads = torch.get_num_threads()
    with ThreadPoolExecutor(num_threads) as pool:
        begun = deque[Future[R]]()
        for task in tasks:
            if len(begun) == num_threads:
                yield begun.popleft().result()
            begun.append(pool.submit(make, task))
        while begun:
            yield begun.popleft().result()
