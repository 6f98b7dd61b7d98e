"""Reads the examples that a model was certified on from its job's files, with the plan of their media.

No torch: the command collects their media, the exporting process renders them.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

from kastor.dataset.formats.parse import decode_example
from kastor.dataset.validation.example_plan import PlannedRow, decode_row
from kastor.domain.certificate import CERTIFICATE_FILE, MAX_GOLDEN_ROWS
from kastor.domain.content import Example
from kastor.domain.errors import DataLoss


@dataclass(frozen=True, slots=True)
class GoldenInput:
    """One golden example; jobs on inline examples have no plan, and no media."""

    example: Example
    planned: PlannedRow | None = None


@dataclass(frozen=True, slots=True)
class GoldenJobFiles:
    """Where a job keeps its examples; only `dataset` need exist."""

    dataset: Path
    plan: Path

    def golden(self, adapter: Path) -> list[GoldenInput]:
        """The examples that the adapter's certificate names; the first ones if it is older than certificates.

        Raises:
            DataLoss: the certificate is damaged.

        """
        file = adapter / CERTIFICATE_FILE
        numbers = set(range(MAX_GOLDEN_ROWS))
        if file.is_file():
            numbers = _certified_examples(file)
        numbered = enumerate(islice(self._examples(), max(numbers) + 1))
        return [GoldenInput(decode_example(line), planned) for number, (line, planned) in numbered if number in numbers]

    def _examples(self) -> Iterator[tuple[bytes, PlannedRow | None]]:
        """The lines of the examples and their plans; unreadable examples count as well, but are never golden."""
        with ExitStack() as stack:
            examples = stack.enter_context(self.dataset.open("rb"))
            if not self.plan.is_file():
                yield from zip(examples, repeat(None), strict=False)
                return
            plans = stack.enter_context(self.plan.open("rb"))
            yield from zip(examples, map(decode_row, plans), strict=True)


def _certified_examples(file: Path) -> set[int]:
    try:
        return {int(row["example"]) for row in json.loads(file.read_bytes())["rows"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataLoss(
            f"{file.name} of {file.parent.parent.name} is damaged: it does not say which examples were compared. "
            "Restore it from a backup, or tune again."
        ) from error
