"""Which tokens see which: causal, within a window where a layer has one, pictures both ways where a family does so.

Shapes: T queries, L keys.
"""

from collections.abc import Sequence

import torch

Span = tuple[int, int]
"""Tokens [first, last) of a picture whose tokens attend to one another both ways."""


def attention_mask(
    queries_T: torch.Tensor,
    keys_L: torch.Tensor,
    blocks: tuple[torch.Tensor, torch.Tensor] | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """A mask (T, L): True where the query sees the key.

    Args:
        queries_T: places in the text, from 0.
        keys_L: likewise.
        blocks: (T,) and (L,), the number of the picture that a token is in, -1 for none.
        window: a token sees so many, itself counted, back from its own place.

    >>> attention_mask(torch.arange(3), torch.arange(3), window=2).int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]

    """
    mask_TL = keys_L <= queries_T[:, None]
    if blocks is not None:
        of_query_T, of_key_L = blocks
        mask_TL |= (of_key_L == of_query_T[:, None]) & (of_key_L >= 0)
    if window is not None:
        mask_TL &= keys_L > queries_T[:, None] - window
    return mask_TL


def span_ids(spans: Sequence[Span], num_tokens: int) -> torch.Tensor:
    """Of each token the number of the span that it is in, -1 for none.

    >>> span_ids([(1, 3), (4, 5)], 6).tolist()
    [-1, 0, 0, -1, 1, -1]
    """
    found = torch.full((num_tokens,), -1)
    for number, (first, last) in enumerate(spans):
        found[first:last] = number
    return found


def uncut_chunk_end(start: int, end: int, spans: Sequence[Span]) -> int:
    """Where a piece [start, end) must end so that no span is cut: before the one at its end, or after it.

    >>> uncut_chunk_end(0, 8, [(2, 4), (6, 10)]), uncut_chunk_end(6, 8, [(6, 10)]), uncut_chunk_end(0, 8, [(2, 8)])
    (6, 10, 8)
    """
    for first, last in spans:
        if first < end < last:
            return first if first > start else last
    return end
