"""How a full memory shows itself, whichever library met it, and what is said of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from kastor.domain.errors import ResourceExhausted

OUT_OF_MEMORY_SIGNS = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "status_alloc_failed")
"""Of torch's allocators, the C library, C++ and CUDA's libraries; parts of messages, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or beside it: torch says so by a RuntimeError.

    >>> is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    (True, False)
    """
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(sign in said for sign in OUT_OF_MEMORY_SIGNS)


@contextmanager
def out_of_memory_as(what: str) -> Iterator[None]:
    """A block that needs memory for `what`, a clause such as "comparing examples of up to 900 tokens".

    Raises:
        ResourceExhausted: it ran out; says what for.

    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceExhausted(
            f"Memory ran out while {what}: close other programs, use shorter examples or a smaller base model."
        ) from error
