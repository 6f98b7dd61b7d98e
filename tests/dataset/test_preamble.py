"""Words that nearly all prompts share are noticed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kastor.dataset.validation.shared_text import SAMPLE, SharedText, SharedTextDetector, longest_shared_prefix
from kastor.domain.content import Example, Text


def found(*prompts: str, system: str | None = None) -> list[SharedText]:
    watching = SharedTextDetector()
    for prompt in prompts:
        pair = Example.pair(prompt, "x")
        watching.add(pair if system is None else Example(pair.contents, (Text(system),)))
    return watching.found()


def test_a_beginning_and_an_end_are_found_as_whole_words() -> None:
    shared = found(
        *[f"Translate to French: the {word} there. Answer in a word:" for word in ("cat", "car", "cow", "x", "y")]
    )
    assert [(one.where, one.text) for one in shared] == [
        ("beginning", "Translate to French: the "),
        ("end", " there. Answer in a word:"),
    ]
    assert shared[0].notice.endswith("use it in prompts, too.")


def test_nine_tenths_are_enough_and_fewer_are_not() -> None:
    alike = [f"Question: {number}" for number in range(18)]
    assert [one.share for one in found(*alike, "else", "other")] == [0.9]
    assert found(*alike, "else", "other", "third") == []


def test_a_system_instruction_is_noticed_with_the_way_to_give_it() -> None:
    (shared,) = found("a", "b", "c", "d", "e", system="Be kind.")
    assert "'Be kind.'; use it in prompts, too (systemInstruction, or kastor generate --system)." in shared.notice


def test_a_system_instruction_is_noticed() -> None:
    assert found("a", "b", "c", "d", "e", system="Be kind.") == [SharedText("system", "Be kind.", 1.0)]


def test_one_prompt_for_all_is_said_once() -> None:
    assert found(*["What is in the picture?"] * 7) == [SharedText("prompt", "What is in the picture?", 1.0)]


@pytest.mark.parametrize("prompts", [["Question: 1"] * 4, ["a1", "a2", "a3", "a4", "a5"], []])
def test_few_prompts_or_short_words_are_no_preamble(prompts: list[str]) -> None:
    assert found(*prompts) == []


def test_a_preamble_is_found_among_many_more_prompts_than_are_kept() -> None:
    rng = random.Random(1)
    shared = found(*[f"Solve this: {rng.random()}" for _ in range(3 * SAMPLE)])
    assert [(one.where, one.text) for one in shared] == [("beginning", "Solve this: 0.")]


@given(st.lists(st.text("ab", max_size=6), min_size=1, max_size=20), st.sampled_from([0.5, 0.9, 1.0]))
def test_the_longest_shared_beginning_is_what_trying_all_finds(texts: list[str], share: float) -> None:
    text, portion = longest_shared_prefix(texts, share)
    wanted = share * len(texts)
    candidates = {one[:length] for one in texts for length in range(len(one) + 1)}
    enough = [one for one in candidates if sum(other.startswith(one) for other in texts) >= wanted]
    assert len(text) == max(map(len, enough))
    assert portion >= share
