"""Estimates follow their formulas, and say where the speed is from."""

from kastor.dataset.estimate import Shape, Speed, estimated
from kastor.domain.job import Hyperparameters

SMOL = Shape(134_515_008, 8)
SETTINGS = Hyperparameters(num_epochs=5, batch_size=4, learning_rate=0.001)


def test_time_is_the_tokens_of_all_epochs_by_the_speed_of_earlier_jobs() -> None:
    found = estimated(
        SETTINGS,
        SMOL,
        num_examples=100,
        num_tokens=10_000,
        longest=200,
        num_bytes=1,
        speed=Speed(500.0, "the last job on this base here"),
    )
    assert (found.num_steps, found.num_tokens, found.duration_s) == (125, 50_000, 100.0)
    assert found.document()["tokensPerSecondSource"] == "the last job on this base here"


def test_without_earlier_jobs_the_calibration_is_named() -> None:
    found = estimated(SETTINGS, SMOL, num_examples=4, num_tokens=420, longest=200, num_bytes=1)
    assert found.duration_s == 5.0
    assert found.speed is not None and "rough calibration" in found.speed.source


def test_the_memory_of_the_measured_run_is_met() -> None:
    found = estimated(SETTINGS, SMOL, num_examples=16, num_tokens=16 * 725, longest=725, num_bytes=1)
    assert found.peak_bytes is not None and 2.5e9 < found.peak_bytes < 2.8e9  # README: 2.5 to 2.8 GB


def test_one_long_example_decides_the_memory() -> None:
    short = estimated(SETTINGS, SMOL, num_examples=4, num_tokens=400, longest=100, num_bytes=1)
    long = estimated(SETTINGS, SMOL, num_examples=4, num_tokens=8_000, longest=7_900, num_bytes=1)
    assert short.peak_bytes is not None and long.peak_bytes is not None
    assert long.peak_bytes - short.peak_bytes == 600_000 * (7_900 - 400)


def test_uncounted_tokens_leave_steps_and_disk() -> None:
    found = estimated(SETTINGS, SMOL, num_examples=10, num_tokens=0, longest=0, num_bytes=1_000)
    assert (found.num_steps, found.duration_s, found.peak_bytes) == (13, None, None)
    assert found.disk_bytes == 1_000 + SMOL.num_trainable * (12 * 5 + 4)


def test_a_larger_base_takes_more_of_everything() -> None:
    large = Shape(8 * SMOL.num_parameters, 8)
    assert large.num_trainable == 4 * SMOL.num_trainable
    assert large.calibrated.tokens_per_s == SMOL.calibrated.tokens_per_s / 8
    assert large.peak_bytes(100) > SMOL.peak_bytes(100)
