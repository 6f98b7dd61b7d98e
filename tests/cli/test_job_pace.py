"""The pace of earlier jobs explains their steps: later epochs by steps and tokens, the first by its media, too."""

from collections.abc import Sequence

import pytest

from kastor.cli.check.throughput import Overhead, machine_speed, pace_of
from kastor.domain.job import StepMetrics
from kastor.settings import load_settings
from support.domain_values import make_snapshot


def job(num_epochs: int, *, step_s: float, token_s: float, media_token_s: float = 0.0) -> list[StepMetrics]:
    """The steps of a job of this pace, with more and fewer tokens."""
    return [
        make_snapshot(
            10 * epoch + place,
            epoch=epoch + 1,
            num_tokens=tokens,
            elapsed_s=step_s + tokens * (token_s + (media_token_s if epoch == 0 else 0.0)),
        )
        for epoch in range(num_epochs)
        for place, tokens in enumerate((100, 400, 900, 250), 1)
    ]


def test_steps_tokens_and_the_first_sight_of_media_are_told_apart() -> None:
    pace = pace_of(job(3, step_s=0.5, token_s=0.01, media_token_s=0.02), [], "here")
    assert (pace.step_s, pace.token_s, pace.media_token_s) == pytest.approx((0.5, 0.01, 0.02))
    overheads = [Overhead(16.5, 12.0, 1650), Overhead(16.5, 30.0, 1650), Overhead(16.5, 14.0, 1650)]
    pace = pace_of(job(3, step_s=0.5, token_s=0.01, media_token_s=0.02), overheads, "here")
    assert pace.media_token_s == pytest.approx(0.03)
    assert (pace.job_s, pace.source) == (14.0, "here")
    whole = pace_of(job(1, step_s=0.5, token_s=0.01), [], "here")
    assert whole.seconds(4, 1650, 1650) == pytest.approx(4 * 0.5 + 16.5)


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    [((100, 100), (1.0, 1.0)), ((100, 200), (2.0, 1.0)), ((100, 200), (0.1, 1.0))],
)
def test_steps_that_follow_no_line_still_add_up(tokens: Sequence[int], seconds: Sequence[float]) -> None:
    steps = [
        make_snapshot(place, epoch=1, num_tokens=number, elapsed_s=elapsed_s)
        for place, (number, elapsed_s) in enumerate(zip(tokens, seconds, strict=True), 1)
    ]
    pace = pace_of(steps, [], "here")
    assert min(pace.step_s, pace.token_s, pace.media_token_s) >= 0
    assert pace.seconds(len(tokens), sum(tokens), 0) == pytest.approx(sum(seconds))


def test_the_speed_of_this_machine_is_known_within_a_second() -> None:
    assert machine_speed(load_settings()).gflops > 0.1
