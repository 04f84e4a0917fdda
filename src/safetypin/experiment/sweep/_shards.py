"""One sweep by several processes: who takes which cells, and who prepares."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from safetypin.artifacts import UserError
from safetypin.stages import Reporter, held

WAIT = 2.0  # seconds between two looks at a folder that another shard holds
Item = TypeVar("Item")


class Shard(NamedTuple):
    """Part `number` of `of`, counted from 1."""

    number: int
    of: int

    def part(self, items: Sequence[Item]) -> list[Item]:
        """Return every item of its turn: together the shards have each item once."""
        return list(items[self.number - 1 :: self.of])


def parse_shard(text: str) -> Shard:
    """Read `i/n`.

    Raises:
        UserError: It is something else, or i is not in 1 ... n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if found is None:
        raise UserError(f"--shard takes i/n, such as 1/4 for the first of four; got {text!r}")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.number <= shard.of:
        raise UserError(f"--shard {text}: the first number must be 1 to {shard.of}")
    return shard


@contextmanager
def holding(out: Path, shard: Shard | None, reporter: Reporter) -> Iterator[None]:
    """Hold the run folder; as one shard of several, wait for the others to let it go.

    Raises:
        UserError: Without shards: another process holds it.
    """
    if shard is None:
        with held(out):
            yield
        return
    is_told = False
    while True:
        try:
            context = held(out)
            context.__enter__()
            break
        except UserError as error:
            if "is in use" not in str(error):
                raise
            if not is_told:
                reporter.note("another shard prepares or writes; waiting for it")
                is_told = True
            time.sleep(WAIT)
    try:
        yield
    finally:
        context.__exit__(None, None, None)
