"""The page stands alone, and nothing of a dataset can act in it."""

import json
from html.parser import HTMLParser
from pathlib import Path

from kastor.dataset.validation.report import validate_dataset
from kastor.dataset.validation.report_html import PreviewSample, PreviewSegment, bars, report_page
from kastor.dataset.validation.report_json import report_document
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator
from kastor.domain.dataset_limits import OPEN_DATASET

HOSTILE = "</mark></title><script>alert(1)</script><img src=x onerror=alert(1)>\" onmouseover='x' {{ 7 * 7 }}"


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_page(folder: Path) -> Tags:
    data = folder / "a<script>b.jsonl"
    rows = [{"text_input": HOSTILE, "output": HOSTILE}, {HOSTILE: 1}, {"contents": [{"role": HOSTILE, "parts": []}]}]
    data.write_text("\n".join(map(json.dumps, rows)))
    report = validate_dataset(
        DatasetValidator(OPEN_DATASET, BaseModelLimits(f"models/{HOSTILE}", 9, None, None), lambda media: {}), data
    )
    shown = PreviewSample(
        1, 3, (PreviewSegment("given", HOSTILE), PreviewSegment("learnt", HOSTILE), PreviewSegment("note", HOSTILE))
    )
    pictured = PreviewSample(2, None, (PreviewSegment("picture", HOSTILE, b"\xff\xd8", HOSTILE),))
    tags = Tags()
    tags.feed(report_page(report_document(report), [HOSTILE], [shown, pictured]))
    return tags


def test_hostile_text_is_shown_and_never_run(tmp_path: Path) -> None:
    found = hostile_page(tmp_path)
    assert not {"script", "iframe", "object", "form", "link", "base"} & {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") >= 7
    assert "{{ 7 * 7 }}" in found.text


def test_the_page_asks_for_nothing_else(tmp_path: Path) -> None:
    found = hostile_page(tmp_path)
    addresses = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert addresses == ["data:image/jpeg;base64,/9g="]
    policy = [attributes.get("content", "") for tag, attributes in found.tags if tag == "meta"]
    assert any(text and text.startswith("default-src 'none'") for text in policy)


def test_pictures_with_only_blanks_between_them_are_one_grid() -> None:
    picture = PreviewSegment("picture", "a", b"\xff\xd8", name="a.png")
    shown = PreviewSample(
        1,
        3,
        (
            PreviewSegment("given", "See "),
            picture,
            PreviewSegment("given", "\n"),
            picture,
            PreviewSegment("learnt", "two"),
        ),
    )
    assert [(kind, len(some)) for kind, some in shown.groups] == [("given", 1), ("picture", 2), ("learnt", 1)]


def test_bars_are_as_wide_as_their_buckets_and_as_high_as_they_are_full() -> None:
    first, second = bars(
        {
            "min": 1,
            "max": 60,
            "buckets": [{"left": 1, "right": 10, "count": 4}, {"left": 51, "right": 60, "count": 2}],
        }
    )
    assert (first.x, first.y, first.height) == (0.0, 0, 96.0)
    assert (second.x, second.height) == (266.7, 48.0)
    assert first.label == "1 to 10: 4 rows"
