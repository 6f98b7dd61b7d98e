"""`kastor check`: every row of a dataset looked at before any training, and what would be learnt, in colour."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from kastor.cli.models import fetched
from kastor.cli.output import Output, fields, program
from kastor.dataset.gate import Base, Gate
from kastor.dataset.issues import Row
from kastor.dataset.look import Looker
from kastor.dataset.read import Columns, read_rows
from kastor.dataset.report import Report, judge
from kastor.dataset.stats import Distribution
from kastor.domain.dataset_limits import dataset_limits
from kastor.domain.job import RequestedHyperparameters, resolve
from kastor.domain.limits import PROFILES
from kastor.media.cache import MediaCache
from kastor.media.fetch import Fetcher, Places
from kastor.media.probe import Inspector
from kastor.models import sources
from kastor.models.catalog import BaseModel, load_catalog
from kastor.models.render import Rendered, Renderer
from kastor.settings import Settings, load_settings

LEARNT, GIVEN = "bold green", "dim"
MAX_SHOWN_ISSUES = 20
HALF_CHARACTER = "\ufffd"


def run(data: Path, base_name: str, show_tokens: int, columns: Columns, out: Output) -> None:
    """Look at the examples in `data`; exits with 1 if a row would be refused."""
    settings = load_settings()
    base = load_catalog(settings.catalog_file).base(base_name)
    renderer = _renderer(base, settings, out, needed=show_tokens > 0)
    known = Base(base.name, base.input_token_limit + base.output_token_limit, base.family.vision, renderer)
    with _looker(settings, data) as looker:
        report = judge(Gate(dataset_limits(settings.profile), known, looker.look), data, columns=columns)
    shown = _views(data, columns, renderer, show_tokens) if renderer is not None and show_tokens else []
    out.result(
        _document(report, base, shown), _summary(report, base, settings), *_legend(shown), *map(_coloured, shown)
    )
    _tell_issues(report, out)
    if report.refusals:
        raise typer.Exit(1)


@contextmanager
def _looker(settings: Settings, data: Path) -> Iterator[Looker]:
    """Media are looked for beside the dataset, and wherever its owner may read."""
    with ExitStack() as stack:
        cache = MediaCache(settings.cache_dir / "media")
        lease = cache.lease("check")
        stack.callback(lease.close)
        places = Places(folders=(Path("/"),), buckets=("gs://", "s3://"), base=data.absolute().parent)
        yield stack.enter_context(Looker(Fetcher(cache, lease, places), Inspector()))


def _renderer(base: BaseModel, settings: Settings, out: Output, *, needed: bool) -> Renderer | None:
    if not needed and not sources.is_local(base, settings.cache_dir):
        out.say(f"Tokens are not counted: {base.name} is not fetched. Fetch it: {program()} models pull {base.id}")
        return None
    return Renderer.open(fetched(base, settings.cache_dir, out), base.family)


def _summary(report: Report, base: BaseModel, settings: Settings) -> Any:  # noqa: ANN401  # a rich table
    ledger, statistics = report.training.ledger, report.training.statistics
    rows: list[tuple[str, Any]] = [
        ("rows", f"{ledger.num_rows:,}"),
        ("accepted", Text(f"{ledger.num_accepted:,}", style="green")),
        ("dropped", Text(f"{ledger.num_dropped:,}", style="yellow" if ledger.num_dropped else "green")),
        *((f"  {rule}", f"{count:,}") for rule, count in ledger.dropped_by_rule.most_common()),
        ("rejected", Text(f"{ledger.num_rejected:,}", style="red" if ledger.num_rejected else "green")),
        *((f"  {rule}", f"{count:,}") for rule, count in ledger.rejected_by_rule.most_common()),
    ]
    if statistics.num_tokens:
        totals = Distribution.of(
            [a + b for a, b in zip(statistics.input_tokens, statistics.output_tokens, strict=True)]
        )
        assert totals is not None  # noqa: S101  # there are tokens
        learnt = sum(statistics.output_tokens)
        each = f"{totals.min:,} to {totals.max:,} a row, median {totals.median:,.0f}"
        rows.append(("tokens", f"{totals.sum:,} ({each}) as {base.name} counts"))
        rows.append(("supervised tokens", f"{learnt:,} ({learnt / totals.sum:.0%})"))
    if ledger.num_accepted:
        asked = resolve(RequestedHyperparameters(), ledger.num_accepted, PROFILES[settings.profile])
        rows.append(
            ("defaults", f"{asked.num_epochs} epochs, batch {asked.batch_size}, learning rate {asked.learning_rate:g}")
        )
    return fields(rows)


def _views(data: Path, columns: Columns, renderer: Renderer, number: int) -> list[list[tuple[str, bool]]]:
    """Of the first `number` good rows: each token's text, and whether it is learnt."""
    views: list[list[tuple[str, bool]]] = []
    for row in read_rows(data, input_key=columns[0], output_key=columns[1]):
        if len(views) == number:
            break
        if isinstance(row, Row):
            views.append(_pieces(renderer, renderer.example(row.example)))
    return views


def _pieces(renderer: Renderer, rendered: Rendered) -> list[tuple[str, bool]]:
    """Tokens as text; those that only together make a character are shown together."""
    pieces: list[tuple[str, bool]] = []
    pending: list[int] = []
    for token, learnt in zip(rendered.token_ids, rendered.supervised, strict=True):
        pending.append(token)
        text = renderer.tokenizer.decode(pending, skip_special_tokens=False)
        if HALF_CHARACTER not in text:
            pieces.append((text, learnt))
            pending = []
    return pieces


def _legend(views: list[list[tuple[str, bool]]]) -> list[Text]:
    if not views:
        return []
    return [Text.assemble("\nTokens, one between bars: ", ("given", GIVEN), ", ", ("learnt", LEARNT), "\n")]


def _coloured(pieces: list[tuple[str, bool]]) -> Text:
    view = Text()
    for text, learnt in pieces:
        shown = text.replace("\n", "⏎\n") if "\n" in text else text
        view.append(shown, style=LEARNT if learnt else GIVEN)
        if not text.endswith("\n"):
            view.append("|", style="dim blue")
    return view.append("\n")


def _tell_issues(report: Report, out: Output) -> None:
    issues = report.training.ledger.issues
    for issue in issues[:MAX_SHOWN_ISSUES]:
        out.say(str(issue), style="red")
    if len(issues) > MAX_SHOWN_ISSUES:
        out.say(f"and {len(issues) - MAX_SHOWN_ISSUES:,} more")
    for sentence in report.refusals:
        out.say(sentence, style="bold red")


def _document(report: Report, base: BaseModel, views: list[list[tuple[str, bool]]]) -> dict[str, Any]:
    ledger, statistics = report.training.ledger, report.training.statistics
    return {
        "rows": ledger.num_rows,
        "accepted": ledger.num_accepted,
        "dropped": ledger.num_dropped,
        "rejected": ledger.num_rejected,
        "droppedByRule": dict(ledger.dropped_by_rule),
        "rejectedByRule": dict(ledger.rejected_by_rule),
        "baseModel": base.name,
        "tokens": statistics.num_tokens or None,
        "supervisedTokens": sum(statistics.output_tokens) or None,
        "issues": [
            {"line": i.line, "path": i.path, "rule": i.rule, "message": i.message, "hint": i.hint}
            for i in ledger.issues
        ],
        "refusals": list(report.refusals),
        "views": [[{"text": text, "supervised": learnt} for text, learnt in view] for view in views],
    }
