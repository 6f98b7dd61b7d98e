"""The learning-rate schedule; arithmetic only."""

import math

WARMUP_FRACTION = 0.1
FINAL_FRACTION = 0.1


def learning_rate(step: int, total_steps: int, peak: float) -> float:
    """The learning rate of step `step` (from 1): linear warm-up to `peak` over a tenth of the steps, then cosine decay.

    The last step runs at a tenth of the peak. The user's learning rate is the peak.

    >>> [round(learning_rate(s, 20, 0.001), 6) for s in (1, 2, 3, 11, 20)]
    [0.0005, 0.001, 0.000993, 0.00055, 0.0001]
    >>> learning_rate(1, 1, 0.001)
    0.001
    """
    warmup = math.ceil(WARMUP_FRACTION * total_steps)
    if step <= warmup:
        return peak * (step / warmup)
    progress = (step - warmup) / (total_steps - warmup)
    return peak * (FINAL_FRACTION + (1 - FINAL_FRACTION) * (1 + math.cos(math.pi * progress)) / 2)
