"""`kastor check`: every row of a dataset looked at before any training, and what would be learnt, in colour."""

from pathlib import Path
from statistics import median
from typing import Any

import typer
from rich.text import Text

from kastor.cli.models import fetched
from kastor.cli.output import Output, fields, program
from kastor.dataset.gate import Ledger, TokenCount, check
from kastor.dataset.issues import Row
from kastor.dataset.read import Columns, read_rows
from kastor.domain.content import Example
from kastor.domain.job import RequestedHyperparameters, resolve
from kastor.domain.limits import PROFILES
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
    ledger = check(
        read_rows(data, input_key=columns[0], output_key=columns[1]),
        PROFILES[settings.profile],
        count_tokens=None if renderer is None else lambda example: _count(renderer, example),
        max_tokens=base.input_token_limit + base.output_token_limit,
        base=base.name,
    )
    shown = _views(data, columns, renderer, show_tokens) if renderer is not None and show_tokens else []
    out.result(
        _document(ledger, base, shown), _summary(ledger, base, settings), *_legend(shown), *map(_coloured, shown)
    )
    _tell_issues(ledger, out)
    if ledger.num_rejected or not ledger.num_rows:
        raise typer.Exit(1)


def _renderer(base: BaseModel, settings: Settings, out: Output, *, needed: bool) -> Renderer | None:
    if not needed and not sources.is_local(base, settings.cache_dir):
        out.say(f"Tokens are not counted: {base.name} is not fetched. Fetch it: {program()} models pull {base.id}")
        return None
    return Renderer.open(fetched(base, settings.cache_dir, out), base.family)


def _count(renderer: Renderer, example: Example) -> TokenCount:
    rendered = renderer.example(example)
    return TokenCount(len(rendered.token_ids), rendered.num_supervised)


def _summary(ledger: Ledger, base: BaseModel, settings: Settings) -> Any:  # noqa: ANN401  # a rich table
    rows: list[tuple[str, Any]] = [
        ("rows", f"{ledger.num_rows:,}"),
        ("accepted", Text(f"{ledger.num_accepted:,}", style="green")),
        ("rejected", Text(f"{ledger.num_rejected:,}", style="red" if ledger.num_rejected else "green")),
    ]
    rows += [(f"  {rule}", f"{count:,}") for rule, count in ledger.rejected_by_rule.most_common()]
    if ledger.token_counts:
        totals = [count.total for count in ledger.token_counts]
        learnt = sum(count.supervised for count in ledger.token_counts)
        each = f"{min(totals):,} to {max(totals):,} a row, median {median(totals):,.0f}"
        rows.append(("tokens", f"{sum(totals):,} ({each}) as {base.name} counts"))
        rows.append(("supervised tokens", f"{learnt:,} ({learnt / sum(totals):.0%})"))
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


def _tell_issues(ledger: Ledger, out: Output) -> None:
    for issue in ledger.issues[:MAX_SHOWN_ISSUES]:
        out.say(str(issue), style="red")
    more = sum(ledger.rejected_by_rule.values()) - len({issue.line for issue in ledger.issues[:MAX_SHOWN_ISSUES]})
    if more > 0:
        out.say(f"and {more:,} more rows")
    if not ledger.num_rows:
        out.say("There are no examples in this file.", style="red")


def _document(ledger: Ledger, base: BaseModel, views: list[list[tuple[str, bool]]]) -> dict[str, Any]:
    return {
        "rows": ledger.num_rows,
        "accepted": ledger.num_accepted,
        "rejected": ledger.num_rejected,
        "rejectedByRule": dict(ledger.rejected_by_rule),
        "baseModel": base.name,
        "tokens": sum(count.total for count in ledger.token_counts) if ledger.token_counts else None,
        "supervisedTokens": sum(count.supervised for count in ledger.token_counts) if ledger.token_counts else None,
        "issues": [
            {"line": i.line, "path": i.path, "rule": i.rule, "message": i.message, "hint": i.hint}
            for i in ledger.issues
        ],
        "views": [[{"text": text, "supervised": learnt} for text, learnt in view] for view in views],
    }
