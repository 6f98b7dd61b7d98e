"""Logits -> the next token, as pure functions: penalties, temperature, top-k, top-p, one uniform draw a token.

Shapes: V vocabulary, K candidates by falling probability.
"""

from collections.abc import Mapping
from hashlib import blake2b

import torch

from kastor.domain.generation import Sampling

COLDEST = 1e-6
"""Lower temperatures choose the likeliest token, as 0 does: logits divided by much less overflow 32 bits."""
TOP_P_CANDIDATES = 1024
"""Candidates tried for top-p before the whole vocabulary: it rarely needs more; a full sort takes ten times that."""


def is_greedy(sampling: Sampling) -> bool:
    """Whether the likeliest token is always chosen."""
    return sampling.temperature < COLDEST or sampling.top_k == 1


def candidate_seed(seed: int, index: int) -> int:
    """The seed of one of several answers to a prompt; the first uses the request's own.

    >>> candidate_seed(7, 0), candidate_seed(7, 1) == candidate_seed(7, 2)
    (7, False)
    """
    if index == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()) >> 1  # torch takes 63 bits


def apply_penalties(logits_V: torch.Tensor, counts: Mapping[int, int], sampling: Sampling) -> torch.Tensor:
    """The logits minus the penalties of the tokens that the answer already contains, `counts` times each.

    The formula that OpenAI documents, and Google describes: frequency x count + presence.

    >>> apply_penalties(torch.zeros(3), {1: 2}, Sampling(presence_penalty=0.5, frequency_penalty=1.0)).tolist()
    [0.0, -2.5, 0.0]
    """
    if not counts or not (sampling.presence_penalty or sampling.frequency_penalty):
        return logits_V
    ids_K = torch.tensor(list(counts))
    counts_K = torch.tensor(list(counts.values()), dtype=logits_V.dtype)
    return logits_V.index_add(0, ids_K, -(sampling.frequency_penalty * counts_K + sampling.presence_penalty))


def logprobs(logits_V: torch.Tensor, token: int, num_top: int) -> tuple[float, list[tuple[int, float]]]:
    """The token's log-probability, and the `num_top` likeliest tokens with theirs: the model's own, at temperature 1.

    >>> own, top = logprobs(torch.log(torch.tensor([0.25, 0.75])), 0, 1)
    >>> round(own, 3), [(token, round(logprob, 3)) for token, logprob in top]
    (-1.386, [(1, -0.288)])
    """
    logprobs_V = torch.log_softmax(logits_V, dim=0)
    values_K, ids_K = logprobs_V.topk(min(num_top, logprobs_V.numel()))
    return float(logprobs_V[token]), list(zip(ids_K.tolist(), values_K.tolist(), strict=True))


def top_candidates(logits_V: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that may come next and their probabilities, likeliest first.

    Temperature first, then the `top_k` likeliest, then of these the fewest that hold `top_p` of the probability
    (always at least one).

    >>> ids, probabilities = top_candidates(torch.tensor([0.0, 2.0, 1.0]), Sampling(top_k=2))
    >>> ids.tolist(), [round(p, 3) for p in probabilities.tolist()]
    ([1, 2], [0.731, 0.269])
    >>> top_candidates(torch.tensor([0.0, 2.0, 1.0]), Sampling(top_p=0.5))[0].tolist()
    [1]
    """
    scaled_V = logits_V.float() / sampling.temperature
    size = scaled_V.numel()
    if sampling.top_k is not None and sampling.top_k < size:
        values_K, ids_K = scaled_V.topk(sampling.top_k)
        probabilities_K = torch.softmax(values_K, dim=0)
    else:
        normaliser = torch.logsumexp(scaled_V, dim=0)
        num_candidates = TOP_P_CANDIDATES if sampling.top_p < 1 else size
        values_K, ids_K = scaled_V.topk(min(num_candidates, size))
        if sampling.top_p < 1 and (values_K - normaliser).exp().sum() < sampling.top_p:
            values_K, ids_K = scaled_V.sort(descending=True)
        probabilities_K = (values_K - normaliser).exp()
    if sampling.top_p < 1:
        before_K = probabilities_K.cumsum(0) - probabilities_K
        kept = max(1, int((before_K < sampling.top_p).sum()))
        ids_K, probabilities_K = ids_K[:kept], probabilities_K[:kept]
    return ids_K, probabilities_K / probabilities_K.sum()


def sample_token(logits_V: torch.Tensor, sampling: Sampling, uniform: float) -> int:
    """The token at `uniform`, in [0, 1), of the candidates' cumulative probability.

    >>> (sample_token(torch.tensor([0.0, 2.0, 1.0]), Sampling(), 0.5),
    ...  sample_token(torch.tensor([0.0, 2.0, 1.0]), Sampling(), 0.95))
    (1, 0)
    """
    ids_K, probabilities_K = top_candidates(logits_V, sampling)
    cumulative_K = probabilities_K.double().cumsum(0)
    index = int(torch.searchsorted(cumulative_K, uniform * float(cumulative_K[-1]), right=True))
    return int(ids_K[min(index, ids_K.numel() - 1)])
