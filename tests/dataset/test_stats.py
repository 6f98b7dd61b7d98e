"""Statistics are what one would count by hand, and histograms have the shape of the ones Vertex publishes."""

import statistics as by_hand

from hypothesis import given
from hypothesis import strategies as st

from kastor.dataset.validation.stats import Bucket, DatasetStatistics, Distribution, bins
from kastor.domain.content import Content, Example, Media, Role, Text
from kastor.domain.vision import TokenCount

numbers = st.lists(st.integers(0, 5_000), min_size=1, max_size=60)


@given(numbers)
def test_a_distribution_is_what_one_counts_by_hand(values: list[int]) -> None:
    spread = Distribution.of(values)
    assert spread is not None
    assert (spread.sum, spread.min, spread.max) == (sum(values), min(values), max(values))
    assert abs(spread.mean - by_hand.fmean(values)) < 1e-6
    assert spread.median == by_hand.median(values)
    assert spread.min <= spread.p5 <= spread.median <= spread.p95 <= spread.max


@given(numbers)
def test_every_value_is_in_one_bucket_and_no_bucket_is_empty(values: list[int]) -> None:
    spread = Distribution.of(values)
    assert spread is not None
    assert sum(bucket.count for bucket in spread.buckets) == len(values)
    for bucket in spread.buckets:
        assert bucket.count == sum(bucket.left <= value <= bucket.right for value in values) > 0
    assert spread.buckets[0].left == min(values)
    assert spread.buckets[-1].right == max(values)
    assert len(spread.buckets) <= 6


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_bins_cover_the_range_without_gaps(low: int, width: int) -> None:
    found = bins(low, low + width)
    assert [number for left, right in found for number in range(left, right + 1)] == list(range(low, low + width + 1))


def test_the_bins_of_a_published_histogram() -> None:
    # inclusive range of 36 numbers: six bins of six, those without values left out
    spread = Distribution.of([10] * 4 + [27, 45])
    assert spread is not None
    assert spread.buckets == (Bucket(4, 10, 15), Bucket(1, 22, 27), Bucket(1, 40, 45))


def test_a_single_value_has_a_single_bucket() -> None:
    spread = Distribution.of([2, 2, 2])
    assert spread is not None and spread.buckets == (Bucket(3, 2, 2),)


def test_no_values_have_no_distribution() -> None:
    assert Distribution.of([]) is None


def gathered(*examples: Example, tokens: TokenCount | None = None) -> DatasetStatistics:
    found = DatasetStatistics()
    for line, example in enumerate(examples, start=1):
        found.add(line, example, tokens)
    return found


def test_groups_count_media_turns_and_system_instructions() -> None:
    image = Content(Role.USER, (Media("image/png", "a.png"), Media("application/pdf", "b.pdf"), Text("?")))
    answer = Content(Role.MODEL, (Text("!"),))
    long = Example((*Example.pair("a", "b").contents, *Example.pair("c", "d").contents), (Text("Be kind."),))
    found = gathered(Example.pair("1", "2"), Example((image, answer)), long).slices
    assert found == {
        "text only": 2,
        "image and pdf": 1,
        "one turn": 2,
        "several turns": 1,
        "with system instruction": 1,
    }


def test_the_first_three_examples_are_kept_cut_and_without_bytes() -> None:
    image = Content(Role.USER, (Media("image/png", data=b"x" * 1000), Text("?" * 500)))
    pairs = [Example((image, Content(Role.MODEL, (Text("!"),)))), *[Example.pair("a", "b")] * 4]
    kept = gathered(*pairs).examples
    assert len(kept) == 6
    assert kept[0].parts[1] == Text("?" * 397 + "...")
    assert kept[0].parts[0] == Media("image/png")


def test_characters_are_those_of_all_turns() -> None:
    assert gathered(Example.pair("日本", "abc"), Example.pair("d", "e")).num_characters == 7


@given(st.lists(st.sampled_from("abcde"), max_size=12), st.lists(st.sampled_from("abcdefgh"), max_size=12))
def test_duplicates_and_leaks_are_those_that_a_set_finds(training: list[str], validation: list[str]) -> None:
    trained = gathered(*[Example.pair(text, "x") for text in training])
    held_out = gathered(*[Example.pair(text, "x") for text in validation])
    again = [(i + 1, training.index(text) + 1) for i, text in enumerate(training) if text in training[:i]]
    leaked = [(i + 1, training.index(text) + 1) for i, text in enumerate(validation) if text in training]
    assert (trained.duplicates().number, list(trained.duplicates().lines)) == (len(again), again)
    found = held_out.leaked_from(trained)
    assert (found.number, list(found.lines)) == (len(leaked), leaked)


def test_examples_that_differ_in_their_turns_are_no_duplicates() -> None:
    parts = (Text("a"), Text("b"))
    joined = Example((Content(Role.USER, (Text("ab"),)), Content(Role.MODEL, (Text("c"),))))
    cut = Example((Content(Role.USER, parts), Content(Role.MODEL, (Text("c"),))))
    with_system = Example(joined.contents, (Text("s"),))
    assert gathered(joined, cut, with_system, Example.pair("a", "bc")).duplicates().number == 0


def test_the_longest_rows_come_first_with_their_lines() -> None:
    found = DatasetStatistics()
    for line, total in ((3, 10), (5, 30), (9, 20)):
        found.add(line, Example.pair("a", "b"), TokenCount(total, 4))
    assert found.longest(2) == [(5, 30), (9, 20)]
    assert (list(found.input_tokens), list(found.output_tokens)) == ([6, 26, 16], [4, 4, 4])
    assert found.num_tokens == 60
