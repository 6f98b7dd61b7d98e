"""Answers that are one of a few labels, held against one another: on the terminal, as JSON, and for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table as TerminalTable
from rich.text import Text

from kastor.cli.console.output import table
from kastor.cli.demos.report_html import Metric, ModelAnswer, Score, Table, decimal
from kastor.metrics.labels import balanced_accuracy, exact_match, recalls

BASE, TUNED, PROBE, GUESS = "base", "tuned", "probe", "one answer"


@dataclass(frozen=True, slots=True)
class ClassificationResult:
    """The right labels, and what each said: base, tuned, and others to hold them against, in the order to be shown."""

    truths: Sequence[str]
    answers: Mapping[str, Sequence[str]]

    @property
    def scores(self) -> dict[str, float]:
        """Balanced accuracy of each; first of who always gives one answer, whichever."""
        guessing = {GUESS: 1 / len(set(self.truths))}
        return guessing | {who: balanced_accuracy(self.truths, said) for who, said in self.answers.items()}

    def metric(self, notes: Mapping[str, str]) -> Metric:
        """For the page."""
        scores = tuple(Score(who, value, notes.get(who, "")) for who, value in self.scores.items())
        return Metric("Balanced accuracy", scores)

    def by_class(self) -> Table:
        """Of each class the share that each recognised."""
        shares = {who: recalls(self.truths, said) for who, said in self.answers.items()}
        rows = [
            (label, str(self.truths.count(label)), *[decimal(found[label]) for found in shares.values()])
            for label in sorted(set(self.truths))
        ]
        return Table(("class", "held out", *self.answers), tuple(rows))

    def said(self, index: int) -> tuple[ModelAnswer, ...]:
        """What was said to one question, the truth first."""
        truth = self.truths[index]
        given = [ModelAnswer(who, said[index], exact_match(said[index], truth)) for who, said in self.answers.items()][
            ::-1
        ]
        return (ModelAnswer("truth", truth), *given)

    def shown(self) -> TerminalTable:
        """For the terminal."""
        classes = self.by_class()
        rows = table(*classes.columns, right=classes.columns[1:])
        for row in classes.rows:
            rows.add_row(*row)
        rows.add_section()
        scores = self.scores
        last = [Text(decimal(scores[who]), style="bold" if who == TUNED else "") for who in self.answers]
        rows.add_row("balanced accuracy", str(len(self.truths)), *last)
        return rows

    def document(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "balancedAccuracy": {who: round(value, 4) for who, value in self.scores.items()},
            "recall": {who: dict(recalls(self.truths, said)) for who, said in self.answers.items()},
            "numHeldOut": len(self.truths),
        }
