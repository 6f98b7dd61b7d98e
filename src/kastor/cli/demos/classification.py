"""Results of a classification task: scores for the terminal, for JSON and for the report."""

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
    """The true labels, and the answers of each model and reference in display order."""

    truths: Sequence[str]
    answers: Mapping[str, Sequence[str]]

    @property
    def scores(self) -> dict[str, float]:
        """Balanced accuracy of each, preceded by that of a constant answer."""
        guessing = {GUESS: 1 / len(set(self.truths))}
        return guessing | {who: balanced_accuracy(self.truths, labels) for who, labels in self.answers.items()}

    def metric(self, notes: Mapping[str, str]) -> Metric:
        """The scores for the report."""
        scores = tuple(Score(who, value, notes.get(who, "")) for who, value in self.scores.items())
        return Metric("Balanced accuracy", scores)

    def by_class(self) -> Table:
        """The recall of each model per class."""
        shares = {who: recalls(self.truths, labels) for who, labels in self.answers.items()}
        rows = [
            (label, str(self.truths.count(label)), *[decimal(found[label]) for found in shares.values()])
            for label in sorted(set(self.truths))
        ]
        return Table(("class", "held out", *self.answers), tuple(rows))

    def answers_to(self, index: int) -> tuple[ModelAnswer, ...]:
        """The answers to one example, preceded by the true label."""
        truth = self.truths[index]
        given = [
            ModelAnswer(who, labels[index], exact_match(labels[index], truth)) for who, labels in self.answers.items()
        ][::-1]
        return (ModelAnswer("truth", truth), *given)

    def terminal_table(self) -> TerminalTable:
        """The recalls and scores for the terminal."""
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
        """The scores for `--json`."""
        return {
            "balancedAccuracy": {who: round(value, 4) for who, value in self.scores.items()},
            "recall": {who: dict(recalls(self.truths, labels)) for who, labels in self.answers.items()},
            "numHeldOut": len(self.truths),
        }
