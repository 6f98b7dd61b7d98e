"""Choosing a token: temperature, top-k and top-p as defined, one draw each."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from kastor.domain.generation import Sampling
from kastor.serving.builtin.sampler import (
    COLDEST,
    TOP_P_CANDIDATES,
    apply_penalties,
    candidate_seed,
    is_greedy,
    logprobs,
    sample_token,
    top_candidates,
)

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))


def test_temperature_zero_and_top_k_one_are_greedy() -> None:
    assert is_greedy(Sampling(temperature=0))
    assert is_greedy(Sampling(top_k=1))
    assert not is_greedy(Sampling(temperature=0.1))


def test_a_temperature_next_to_nothing_is_greedy_and_one_that_is_not_gives_numbers() -> None:
    assert is_greedy(Sampling(temperature=1e-45))
    assert is_greedy(Sampling(temperature=1e-50))
    assert sample_token(100 * LOGITS, Sampling(temperature=COLDEST), 0.999) == 1


def test_candidates_are_the_softmax_likeliest_first() -> None:
    ids, probabilities = top_candidates(LOGITS, Sampling())
    assert ids.tolist() == [1, 3, 2, 0]
    torch.testing.assert_close(probabilities, torch.tensor([0.4, 0.3, 0.2, 0.1]))


def test_temperature_sharpens() -> None:
    _, probabilities = top_candidates(LOGITS, Sampling(temperature=0.5))
    torch.testing.assert_close(probabilities, torch.tensor([0.16, 0.09, 0.04, 0.01]) / 0.30)


def test_top_p_keeps_the_fewest_that_hold_it() -> None:
    assert top_candidates(LOGITS, Sampling(top_p=0.69))[0].tolist() == [1, 3]
    assert top_candidates(LOGITS, Sampling(top_p=0.75))[0].tolist() == [1, 3, 2]
    assert top_candidates(LOGITS, Sampling(top_p=0.01))[0].tolist() == [1]


def test_top_p_counts_within_the_top_k() -> None:
    ids, probabilities = top_candidates(LOGITS, Sampling(top_k=2, top_p=0.5))
    assert ids.tolist() == [1]  # 0.4 of 0.7 is more than half
    assert probabilities.tolist() == [1.0]


def test_top_p_looks_further_when_the_first_look_does_not_hold_it() -> None:
    flat = torch.zeros(4 * TOP_P_CANDIDATES)
    assert top_candidates(flat, Sampling(top_p=0.5))[0].numel() == 2 * TOP_P_CANDIDATES


def test_draws_follow_the_probabilities() -> None:
    uniforms = [(i + 0.5) / 1000 for i in range(1000)]
    counts = torch.bincount(torch.tensor([sample_token(LOGITS, Sampling(), u) for u in uniforms]), minlength=4)
    assert counts.tolist() == [100, 400, 200, 300]


def test_penalties_are_taken_off_the_logits_of_what_was_said_already() -> None:
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=-0.25)
    torch.testing.assert_close(
        apply_penalties(torch.ones(4), {0: 1, 3: 4}, sampling), torch.tensor([1 - 0.5 + 0.25, 1, 1, 1 - 0.5 + 1.0])
    )


def test_without_penalties_or_without_tokens_the_logits_are_untouched() -> None:
    assert apply_penalties(LOGITS, {1: 3}, Sampling()) is LOGITS
    assert apply_penalties(LOGITS, {}, Sampling(presence_penalty=1.0)) is LOGITS


def test_logprobs_are_the_models_own_likeliest_first() -> None:
    own, top = logprobs(LOGITS + 3.0, 2, 3)
    assert round(own, 4) == -1.6094
    assert [(token, round(logprob, 4)) for token, logprob in top] == [(1, -0.9163), (3, -1.204), (2, -1.6094)]
    assert logprobs(LOGITS, 0, 0)[1] == []
    assert len(logprobs(LOGITS, 0, 20)[1]) == 4


@given(st.integers(-(2**31), 2**31 - 1))
def test_each_candidate_has_a_seed_of_its_own_that_a_generator_takes(seed: int) -> None:
    seeds = [candidate_seed(seed, index) for index in range(8)]
    assert len(set(seeds)) == 8
    assert seeds == [candidate_seed(seed, index) for index in range(8)]
    for one in seeds:
        torch.Generator().manual_seed(one)


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
    st.floats(0.01, 2),
    st.floats(0.001, 1),
    st.none() | st.integers(1, 50),
    st.floats(0, 1, exclude_max=True),
)
def test_any_draw_is_one_of_the_candidates(
    logits: list[float], temperature: float, top_p: float, top_k: int | None, uniform: float
) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    ids, probabilities = top_candidates(torch.tensor(logits), sampling)
    assert 1 <= ids.numel() <= len(logits)
    assert abs(float(probabilities.sum()) - 1) < 1e-4
    assert sample_token(torch.tensor(logits), sampling, uniform) in ids.tolist()
