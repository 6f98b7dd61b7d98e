"""Turns an exception in a pass through the model into an error for the caller of the request."""

import structlog

from kastor.domain.errors import Internal, KastorError, ResourceExhausted
from kastor.runtime.out_of_memory import is_out_of_memory


def request_error(error: Exception) -> KastorError:
    """The error as its request's caller sees it; one that is a bug goes to the log with its traceback."""
    if isinstance(error, KastorError):
        return error
    structlog.get_logger().error("generation failed", exc_info=error)
    text = str(error)
    if is_out_of_memory(error):
        return ResourceExhausted(
            "The generation process is out of memory; send fewer or shorter requests, then try again."
        )
    return Internal(f"Generation failed: {type(error).__name__}: {text.splitlines()[0] if text else 'no message'}")
