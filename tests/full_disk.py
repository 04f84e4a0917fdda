"""A disk that takes no more than so many bytes a file: the kernel's own errors, not a mock's."""

import contextlib
import resource


@contextlib.contextmanager
def room_for(num_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
