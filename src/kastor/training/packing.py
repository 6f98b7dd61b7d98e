"""Which examples form a step, and how they are packed into rows; arithmetic only, no torch.

The examples of all epochs form one stream, cut into steps of exactly `batch_size` examples (the last may be shorter).
The order depends on (seed, step) alone, so a resumed job needs no state to continue with the same examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kastor.domain.job import MAX_ROW_TOKENS
from kastor.models.chat.render import PictureSpan, RenderedExample


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_examples: int) -> npt.NDArray[np.int64]:
    """The permutation of the examples in epoch `epoch` (from 0)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_examples)


def step_examples(step: int, *, seed: int, num_examples: int, num_epochs: int, batch_size: int) -> list[int]:
    """Indices of the examples of step `step` (from 1), in stream order.

    >>> stream = [i for s in range(1, 5) for i in step_examples(s, seed=0, num_examples=5, num_epochs=3, batch_size=4)]
    >>> len(stream), [sorted(stream[e * 5 : e * 5 + 5]) for e in range(3)] == [[0, 1, 2, 3, 4]] * 3
    (15, True)
    """
    start, end = (step - 1) * batch_size, min(step * batch_size, num_examples * num_epochs)
    return [int(epoch_order(seed, at // num_examples, num_examples)[at % num_examples]) for at in range(start, end)]


def bin_pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Pack indices of `lengths` into rows of at most `budget` tokens: first fit, longest first.

    Deterministic: ties keep their order. An item longer than the budget has a row of its own.

    >>> bin_pack([3, 9, 4, 2], 9)
    [[1], [2, 0, 3]]
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row, left in enumerate(free):
            if lengths[index] <= left:
                rows[row].append(index)
                free[row] -= lengths[index]
                break
        else:
            rows.append([index])
            free.append(budget - lengths[index])
    return rows


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Examples laid end to end: T tokens, of which S are targets of the loss."""

    token_ids_T: npt.NDArray[np.int64]
    positions_T: npt.NDArray[np.int64]  # restart at 0 in every example; (3, T) for M-RoPE
    lengths: tuple[int, ...]  # of the examples, in order; they sum to T
    predicting_S: npt.NDArray[np.int64]  # indices into T whose next token is supervised
    targets_S: npt.NDArray[np.int64]  # those next tokens
    pictures: tuple[PictureSpan, ...] = ()  # of all examples, in order; `start` is an index into T


def pack(examples: Sequence[RenderedExample]) -> PackedRow:
    """Pack `examples` into one row. The first token of an example is never a target: nothing precedes it."""
    lengths = tuple(len(example.token_ids) for example in examples)
    token_ids = np.concatenate([np.asarray(example.token_ids, np.int64) for example in examples])
    supervised = np.concatenate([np.asarray(example.supervised, bool) for example in examples])
    starts = np.cumsum((0, *lengths[:-1]))
    supervised[starts] = False
    with_starts = zip(examples, starts.tolist(), strict=True)
    pictures = [replace(p, start=p.start + start) for example, start in with_starts for p in example.pictures]
    targets_at = np.flatnonzero(supervised)
    return PackedRow(
        token_ids_T=token_ids,
        positions_T=_positions(examples),
        lengths=lengths,
        predicting_S=targets_at - 1,
        targets_S=token_ids[targets_at],
        pictures=tuple(pictures),
    )


def _positions(examples: Sequence[RenderedExample]) -> npt.NDArray[np.int64]:
    own = [example.positions for example in examples]
    plain = [np.arange(len(example.token_ids), dtype=np.int64) for example in examples]
    if all(one is None for one in own):
        return np.concatenate(plain)
    pairs = zip(own, plain, strict=True)
    return np.concatenate([np.tile(p, (3, 1)) if one is None else one for one, p in pairs], axis=1)


def pack_step(
    groups: Sequence[Sequence[RenderedExample]], budget: int = MAX_ROW_TOKENS
) -> list[tuple[list[int], PackedRow]]:
    """The rows of one step, each with the indices of its groups. A group is never split across rows."""
    rows = bin_pack([sum(len(one.token_ids) for one in group) for group in groups], budget)
    return [(row, pack([one for index in row for one in groups[index]])) for row in rows]
