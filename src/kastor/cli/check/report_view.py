"""The report of `kastor check` as people read it in a terminal."""

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kastor.cli.console.output import duration, fields, megabytes, table
from kastor.dataset.validation.cost_estimate import Estimate
from kastor.dataset.validation.ledger import Ledger
from kastor.dataset.validation.report import DatasetReport, ValidatedFile
from kastor.dataset.validation.stats import WITH_SYSTEM, DatasetStatistics, Distribution, Duplicates, bins
from kastor.domain.counts import counted

BAR_WIDTH = 32
NUM_LONGEST = 5
NUM_PAIRS = 5
HEADING = "bold"


def render_report(report: DatasetReport, estimate: Estimate | None) -> Iterator[RenderableType]:
    """The whole report, part after part."""
    yield from _judged(report.training, report)
    if report.validation is not None:
        yield from _judged(report.validation, report)
    found = notice_lines(report)
    if found:
        yield Text("\nTo know", style=HEADING)
        for sentence in found:
            yield Text(f"  {sentence}")
    if estimate is not None:
        yield Text("\nTraining", style=HEADING)
        yield fields(list(_estimated(estimate)))
    yield from _verdict(report)


def notice_lines(report: DatasetReport) -> list[str]:
    """Sentences on what stops nothing and should be known."""
    return [*_duplicated(report), *_preambles(report.training.statistics)]


def _judged(judged: ValidatedFile, report: DatasetReport) -> Iterator[RenderableType]:
    ledger, statistics = judged.ledger, judged.statistics
    yield Text.assemble((f"\n{judged.path.name}", HEADING), (f"  {judged.path.stat().st_size:,} bytes", "dim"))
    if judged.facts.sentence:
        yield Text(f"  read as {judged.facts.sentence}")
    yield _totals(ledger)
    if ledger.first:
        yield _faults(ledger, judged.facts.unit)
    for name, values in (
        ("input tokens", statistics.input_tokens),
        ("output tokens", statistics.output_tokens),
        ("messages", statistics.num_messages),
    ):
        spread = Distribution.of(values)
        if spread is not None:
            yield from _histogram(name, spread)
    longest = statistics.longest(NUM_LONGEST)
    if longest:
        rows = ", ".join(f"{judged.facts.unit} {line:,} ({tokens:,})" for line, tokens in longest)
        yield Text(f"  longest   {rows}; at most {report.gate.max_tokens:,} tokens fit")
    if len(statistics.slices) > 2:
        groups = ", ".join(f"{number:,} {name}" for name, number in statistics.slices.most_common())
        yield Text(f"  groups    {groups}")


def _totals(ledger: Ledger) -> Text:
    parts = ((ledger.num_accepted, "accepted", "green"), (ledger.num_dropped, "dropped", "yellow"))
    text = Text(f"  {counted(ledger.num_rows, 'row')} = ")
    for number, name, style in parts:
        text.append(f"{number:,} {name}", style=style if number else "dim").append(" + ")
    return text.append(f"{ledger.num_rejected:,} rejected", style="red" if ledger.num_rejected else "dim")


def _faults(ledger: Ledger, unit: str) -> Table:
    """Every rule that had something to say, most rows first."""
    shown = table("rule", "rows", "becomes", f"first {unit}s", "as in", right=("rows",))
    for outcome, style, counts in (
        ("rejected", "red", ledger.rejected_by_rule),
        ("dropped", "yellow", ledger.dropped_by_rule),
        ("kept", "dim", ledger.notes),
    ):
        for rule, number in counts.most_common():
            firsts = ledger.first.get(rule, [])
            lines = ", ".join(f"{issue.line:,}" for issue in firsts)
            first = firsts[0] if firsts else None
            said = "" if first is None else first.message + (f" ({first.hint})" if first.hint else "")
            shown.add_row(rule, f"{number:,}", Text(outcome, style=style), lines, said)
    return shown


def _histogram(name: str, spread: Distribution) -> Iterator[Text]:
    yield Text.assemble(
        (f"\n  {name}", HEADING),
        f"  {spread.sum:,} in all; {spread.min:,} to {spread.max:,} a row, median {spread.median:,.0f}, "
        f"mean {spread.mean:,.1f}, 5 % below {spread.p5:,.0f}, 5 % above {spread.p95:,.0f}",
    )
    counts: Mapping[int, int] = {bucket.left: bucket.count for bucket in spread.buckets}
    if len(counts) == 1:
        return
    most = max(counts.values())
    edges = [f"{left:,} – {right:,}" for left, right in bins(int(spread.min), int(spread.max))]
    width = max(map(len, edges))
    for label, (left, _) in zip(edges, bins(int(spread.min), int(spread.max)), strict=True):
        number = counts.get(left, 0)
        bar = "█" * round(BAR_WIDTH * number / most) or ("▏" if number else "")
        yield Text.assemble(f"    {label:>{width}}  ", (f"{bar:<{BAR_WIDTH}}", "cyan"), f"  {number:,}")


def _duplicated(report: DatasetReport) -> Iterator[str]:
    if report.duplicates.number:
        pairs = _pairs(report.duplicates, report.training)
        yield f"{_rows(report.duplicates.number)} earlier in the training file, too: {pairs}."
    if report.leaked.number:
        yield (
            f"{_rows(report.leaked.number)} in the validation file and in the training file, so validation says "
            f"less than it seems to: {_pairs(report.leaked, report.validation or report.training)}."
        )


def _preambles(statistics: DatasetStatistics) -> Iterator[str]:
    """What a model must be asked with because it was tuned with it."""
    shared = statistics.preambles()
    yield from (one.notice for one in shared)
    number = statistics.slices[WITH_SYSTEM]
    if number and all(one.where != "system" for one in shared):
        yield (
            f"{number:,} of {counted(len(statistics.lines), 'example')} "
            f"{'has' if number == 1 else 'have'} a system instruction: ask with one, too "
            "(systemInstruction, or kastor generate --system)."
        )


def _rows(number: int) -> str:
    return f"{counted(number, 'example')} {'stands' if number == 1 else 'stand'}"


def _pairs(found: Duplicates, judged: ValidatedFile) -> str:
    pairs = ", ".join(f"{judged.facts.unit} {line:,} as {first:,}" for line, first in found.lines[:NUM_PAIRS])
    return pairs + (", …" if found.number > NUM_PAIRS else "")


def _estimated(estimate: Estimate) -> Iterator[tuple[str, RenderableType]]:
    asked = estimate.hyperparameters
    how = f"{counted(asked.num_epochs, 'epoch')}, batch {asked.batch_size}, learning rate {asked.learning_rate:g}"
    yield "  steps", f"{estimate.num_steps:,} ({how})"
    if estimate.duration_s is not None and estimate.tokens_per_s is not None:
        pace = f"{estimate.tokens_per_s:,.0f} tokens/s ({estimate.pace_source})"
        yield "  time", f"about {duration(estimate.duration_s)}; in training {pace}"
    if estimate.peak_bytes is not None:
        yield "  memory", f"about {estimate.peak_bytes / 1e9:.1f} GB at the peak"
    yield "  disk", f"about {megabytes(estimate.disk_bytes)} for checkpoints, the model and the dataset's copy"


def _verdict(report: DatasetReport) -> Iterator[RenderableType]:
    yield Text("")
    if report.partial:
        yield Text("Interrupted: this is what was read by then, not the whole file.", style="bold yellow")
    if report.refusals:
        yield Group(*(Text(f"Refused: {sentence}", style="bold red") for sentence in report.refusals))
    elif not report.partial:
        number = report.training.ledger.num_accepted
        yield Text(f"Fine: {counted(number, 'example')} can be trained on.", style="bold green")
