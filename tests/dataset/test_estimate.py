"""Estimates follow their formulas, and say where the speed is from."""

import pytest

from kastor.dataset.validation.cost_estimate import (
    MEASURED_GFLOPS,
    MachineSpeed,
    MeasuredPace,
    ModelSize,
    estimate_cost,
)
from kastor.domain.job import Hyperparameters

SMOL = ModelSize(134_515_008, 8)
SETTINGS = Hyperparameters(num_epochs=5, batch_size=4, learning_rate=0.001)


PACE = MeasuredPace(0.5, 0.01, 0.02, 10.0, "the last job on this base here")
HERE = MachineSpeed(MEASURED_GFLOPS)


def test_time_is_steps_and_tokens_of_all_epochs_media_once_and_what_is_beside() -> None:
    found = estimate_cost(
        SETTINGS,
        SMOL,
        num_examples=100,
        num_tokens=10_000,
        num_media_tokens=4_000,
        longest=200,
        num_bytes=1,
        pace=PACE,
    )
    assert (found.num_steps, found.num_tokens) == (125, 50_000)
    assert found.duration_s == 10 + 0.5 * 125 + 0.01 * 50_000 + 0.02 * 4_000
    assert found.document()["tokensPerSecondSource"] == "the last job on this base here"


def test_a_calibration_follows_the_speed_of_the_machine_and_says_so() -> None:
    here, slow = SMOL.calibrated(HERE), SMOL.calibrated(MachineSpeed(MEASURED_GFLOPS / 4))
    tiles = SMOL.calibrated(MachineSpeed(MEASURED_GFLOPS, has_tiles=True))
    assert slow.seconds(10, 1000, 100) == pytest.approx(4 * here.seconds(10, 1000, 100))
    assert tiles.token_s < here.token_s / 2
    assert "rough calibration" in here.source
    assert f"{MEASURED_GFLOPS:.0f} GFLOP/s" in here.source


def test_the_memory_of_the_measured_run_is_met() -> None:
    found = estimate_cost(SETTINGS, SMOL, num_examples=16, num_tokens=16 * 725, longest=725, num_bytes=1, pace=PACE)
    assert found.peak_bytes is not None and 2.5e9 < found.peak_bytes < 2.8e9  # README: 2.5 to 2.8 GB


def test_one_long_example_decides_the_memory() -> None:
    short = estimate_cost(SETTINGS, SMOL, num_examples=4, num_tokens=400, longest=100, num_bytes=1, pace=PACE)
    long = estimate_cost(SETTINGS, SMOL, num_examples=4, num_tokens=8_000, longest=7_900, num_bytes=1, pace=PACE)
    assert short.peak_bytes is not None and long.peak_bytes is not None
    assert long.peak_bytes - short.peak_bytes == 600_000 * (7_900 - 400)


def test_uncounted_tokens_leave_steps_and_disk() -> None:
    found = estimate_cost(SETTINGS, SMOL, num_examples=10, num_tokens=0, longest=0, num_bytes=1_000, pace=None)
    assert (found.num_steps, found.duration_s, found.peak_bytes) == (13, None, None)
    assert found.disk_bytes == 1_000 + SMOL.num_trainable * (12 * 5 + 4)


def test_a_larger_base_takes_more_of_everything() -> None:
    large = ModelSize(8 * SMOL.num_parameters, 8)
    assert large.num_trainable == 4 * SMOL.num_trainable
    assert large.calibrated(HERE).token_s == pytest.approx(8 * SMOL.calibrated(HERE).token_s)
    assert large.peak_bytes(100) > SMOL.peak_bytes(100)
