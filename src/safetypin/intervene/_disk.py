"""A full disk, in the words of the libraries that write models."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from safetypin.artifacts import disk_errors

# what torch says, whose errors have no number, and tokenizers, whose errors have no class
FULL_DISK = (
    "PytorchStreamWriter", "file write failed", "unexpected pos", "iostream error",
    f"os error {errno.ENOSPC}", f"os error {errno.EFBIG}", f"os error {errno.EDQUOT}",
)  # fmt: skip


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk into words, whichever library meets it.

    Raises:
        UserError: The disk is full.
    """
    with disk_errors(path):
        try:
            yield
        except Exception as error:  # tokenizers raises nothing narrower
            nameless = type(error) in {Exception, RuntimeError}
            if not nameless or not any(text in str(error) for text in FULL_DISK):
                raise
            raise OSError(errno.ENOSPC, str(error)) from error
