"""The report of `kastor check`, rendered for a terminal."""

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
    """The sections of the report, in order."""
    yield from _file_section(report.training, report)
    if report.validation is not None:
        yield from _file_section(report.validation, report)
    notices = notice_lines(report)
    if notices:
        yield Text("\nNotes", style=HEADING)
        for sentence in notices:
            yield Text(f"  {sentence}")
    if estimate is not None:
        yield Text("\nTraining", style=HEADING)
        yield fields(list(_estimate_fields(estimate)))
    yield from _verdict(report)


def notice_lines(report: DatasetReport) -> list[str]:
    """Sentences on findings that do not prevent training."""
    return [*_duplicate_notices(report), *_prompt_notices(report.training.statistics)]


def _file_section(file: ValidatedFile, report: DatasetReport) -> Iterator[RenderableType]:
    ledger, statistics = file.ledger, file.statistics
    yield Text.assemble((f"\n{file.path.name}", HEADING), (f"  {file.path.stat().st_size:,} bytes", "dim"))
    if file.facts.sentence:
        yield Text(f"  read as {file.facts.sentence}")
    yield _totals(ledger)
    if ledger.first:
        yield _faults(ledger, file.facts.unit)
    for name, values in (
        ("input tokens", statistics.input_tokens),
        ("output tokens", statistics.output_tokens),
        ("messages", statistics.num_messages),
    ):
        distribution = Distribution.of(values)
        if distribution is not None:
            yield from _histogram(name, distribution)
    longest = statistics.longest(NUM_LONGEST)
    if longest:
        rows = ", ".join(f"{file.facts.unit} {line:,} ({tokens:,})" for line, tokens in longest)
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
    """The rules that were violated, the most frequent first."""
    shown = table("rule", "rows", "outcome", f"first {unit}s", "example", right=("rows",))
    for outcome, style, counts in (
        ("rejected", "red", ledger.rejected_by_rule),
        ("dropped", "yellow", ledger.dropped_by_rule),
        ("kept", "dim", ledger.notes),
    ):
        for rule, number in counts.most_common():
            firsts = ledger.first.get(rule, [])
            lines = ", ".join(f"{issue.line:,}" for issue in firsts)
            first = firsts[0] if firsts else None
            message = "" if first is None else first.message + (f" ({first.hint})" if first.hint else "")
            shown.add_row(rule, f"{number:,}", Text(outcome, style=style), lines, message)
    return shown


def _histogram(name: str, distribution: Distribution) -> Iterator[Text]:
    yield Text.assemble(
        (f"\n  {name}", HEADING),
        f"  {distribution.sum:,} in total; {distribution.min:,} to {distribution.max:,} a row, "
        f"median {distribution.median:,.0f}, mean {distribution.mean:,.1f}, "
        f"5th percentile {distribution.p5:,.0f}, 95th {distribution.p95:,.0f}",
    )
    counts: Mapping[int, int] = {bucket.left: bucket.count for bucket in distribution.buckets}
    if len(counts) == 1:
        return
    most = max(counts.values())
    edges = [f"{left:,} – {right:,}" for left, right in bins(int(distribution.min), int(distribution.max))]
    width = max(map(len, edges))
    for label, (left, _) in zip(edges, bins(int(distribution.min), int(distribution.max)), strict=True):
        number = counts.get(left, 0)
        bar = "█" * round(BAR_WIDTH * number / most) or ("▏" if number else "")
        yield Text.assemble(f"    {label:>{width}}  ", (f"{bar:<{BAR_WIDTH}}", "cyan"), f"  {number:,}")


def _duplicate_notices(report: DatasetReport) -> Iterator[str]:
    if report.duplicates.number:
        pairs = _pairs(report.duplicates, report.training)
        yield f"{counted(report.duplicates.number, 'duplicate')} in the training file: {pairs}."
    if report.leaked.number:
        yield (
            f"{_rows(report.leaked.number)} both in the validation and the training file, so validation "
            f"results will look too good: {_pairs(report.leaked, report.validation or report.training)}."
        )


def _prompt_notices(statistics: DatasetStatistics) -> Iterator[str]:
    """System instructions and shared texts that prompts must repeat, as the model is tuned with them."""
    shared = statistics.preambles()
    yield from (one.notice for one in shared)
    number = statistics.slices[WITH_SYSTEM]
    if number and all(one.where != "system" for one in shared):
        yield (
            f"{number:,} of {counted(len(statistics.lines), 'example')} "
            f"{'has' if number == 1 else 'have'} a system instruction: send one with each prompt, too "
            "(systemInstruction, or kastor generate --system)."
        )


def _rows(number: int) -> str:
    return f"{counted(number, 'example')} {'is' if number == 1 else 'are'}"


def _pairs(found: Duplicates, file: ValidatedFile) -> str:
    pairs = ", ".join(f"{file.facts.unit} {line:,} as {first:,}" for line, first in found.lines[:NUM_PAIRS])
    return pairs + (", …" if found.number > NUM_PAIRS else "")


def _estimate_fields(estimate: Estimate) -> Iterator[tuple[str, RenderableType]]:
    chosen = estimate.hyperparameters
    how = f"{counted(chosen.num_epochs, 'epoch')}, batch {chosen.batch_size}, learning rate {chosen.learning_rate:g}"
    yield "  steps", f"{estimate.num_steps:,} ({how})"
    if estimate.duration_s is not None and estimate.tokens_per_s is not None:
        pace = f"{estimate.tokens_per_s:,.0f} tokens/s ({estimate.pace_source})"
        yield "  time", f"about {duration(estimate.duration_s)}, at {pace}"
    if estimate.peak_bytes is not None:
        yield "  memory", f"about {estimate.peak_bytes / 1e9:.1f} GB at the peak"
    yield "  disk", f"about {megabytes(estimate.disk_bytes)} for checkpoints, the model and the dataset's copy"


def _verdict(report: DatasetReport) -> Iterator[RenderableType]:
    yield Text("")
    if report.partial:
        yield Text("Interrupted: the report covers only the rows read so far.", style="bold yellow")
    if report.refusals:
        yield Group(*(Text(f"Refused: {sentence}", style="bold red") for sentence in report.refusals))
    elif not report.partial:
        number = report.training.ledger.num_accepted
        yield Text(f"OK: {counted(number, 'example')} can be trained on.", style="bold green")
