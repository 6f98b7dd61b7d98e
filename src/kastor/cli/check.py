"""`kastor check`: every row of a dataset looked at before any training."""

from pathlib import Path

from kastor.cli.output import Output
from kastor.domain.errors import Unimplemented


def run(data: Path, base: str, show_tokens: int, out: Output) -> None:
    """Look at the examples in `data`."""
    raise Unimplemented("kastor check is not built yet.")
