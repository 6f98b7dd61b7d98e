"""Logits -> the next token, as pure functions: temperature, top-k, top-p, one uniform draw a token.

Shapes: V vocabulary, K candidates by falling probability.
"""

import torch

from kastor.domain.generation import Sampling

FIRST_LOOK = 1024
"""Candidates looked at before the whole vocabulary: top-p seldom needs more, and a full sort costs ten times that."""


def greedy(sampling: Sampling) -> bool:
    """Whether the draw plays no part."""
    return sampling.temperature == 0 or sampling.top_k == 1


def candidates(logits_V: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that may come next and their probabilities, likeliest first.

    Temperature first, then the `top_k` likeliest, then of these the fewest that hold `top_p` of the probability
    (always at least one).

    >>> ids, probabilities = candidates(torch.tensor([0.0, 2.0, 1.0]), Sampling(top_k=2))
    >>> ids.tolist(), [round(p, 3) for p in probabilities.tolist()]
    ([1, 2], [0.731, 0.269])
    >>> candidates(torch.tensor([0.0, 2.0, 1.0]), Sampling(top_p=0.5))[0].tolist()
    [1]
    """
    scaled_V = logits_V.float() / sampling.temperature
    size = scaled_V.numel()
    if sampling.top_k is not None and sampling.top_k < size:
        values_K, ids_K = scaled_V.topk(sampling.top_k)
        probabilities_K = torch.softmax(values_K, dim=0)
    else:
        normaliser = torch.logsumexp(scaled_V, dim=0)
        look = FIRST_LOOK if sampling.top_p < 1 else size
        values_K, ids_K = scaled_V.topk(min(look, size))
        if sampling.top_p < 1 and (values_K - normaliser).exp().sum() < sampling.top_p:
            values_K, ids_K = scaled_V.sort(descending=True)
        probabilities_K = (values_K - normaliser).exp()
    if sampling.top_p < 1:
        before_K = probabilities_K.cumsum(0) - probabilities_K
        kept = max(1, int((before_K < sampling.top_p).sum()))
        ids_K, probabilities_K = ids_K[:kept], probabilities_K[:kept]
    return ids_K, probabilities_K / probabilities_K.sum()


def drawn(logits_V: torch.Tensor, sampling: Sampling, uniform: float) -> int:
    """The token at `uniform`, in [0, 1), of the candidates' cumulated probability.

    >>> drawn(torch.tensor([0.0, 2.0, 1.0]), Sampling(), 0.5), drawn(torch.tensor([0.0, 2.0, 1.0]), Sampling(), 0.95)
    (1, 0)
    """
    ids_K, probabilities_K = candidates(logits_V, sampling)
    cumulated_K = probabilities_K.double().cumsum(0)
    index = int(torch.searchsorted(cumulated_K, uniform * float(cumulated_K[-1]), right=True))
    return int(ids_K[min(index, ids_K.numel() - 1)])
