"""Decoders share one budget of memory: whoever would be one too many waits, in this process and in others."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from films import make_film
from kastor.domain.errors import Unavailable
from kastor.domain.media import Sampling, SamplingPlan
from kastor.media.decode import frames, picture
from kastor.media.guards import Guards
from kastor.media.memory_budget import decoder_slot
from kastor.media.probe import plan, probe


@pytest.fixture(name="guards")
def some_guards(tmp_path: Path) -> Guards:
    (tmp_path / "slots").mkdir()
    return Guards(max_decoders=2, slots_folder=str(tmp_path / "slots"))


def test_never_more_are_at_work_than_there_is_memory_for(guards: Guards) -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal at_work, most
        with decoder_slot(guards):
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(0.02)
            with lock:
                at_work -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(24)))
    assert most == 2


FILM_PLAN = SamplingPlan((0.0, 1.0), (0, 10240), Fraction(1, 10240), 0, 2.5)
LOOKS: dict[str, Callable[[Path, Guards], object]] = {
    "probe": lambda folder, guards: probe(folder / "a.png", guards),
    "picture": lambda folder, guards: len(picture(folder / "a.png", guards=guards)),
    "plan": lambda folder, guards: plan(folder / "a.mp4", Sampling(), guards),
    "frames": lambda folder, guards: len(list(frames(folder / "a.mp4", FILM_PLAN, None, guards))),
}


@pytest.mark.parametrize("look", LOOKS)
def test_whatever_opens_a_medium_waits_for_its_share(look: str, guards: Guards, tmp_path: Path) -> None:
    PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    make_film(tmp_path / "a.mp4")
    with ExitStack() as others, ThreadPoolExecutor(1) as thread:
        others.enter_context(decoder_slot(guards))
        with decoder_slot(guards):
            with pytest.raises(Unavailable, match="All 2 decoders"):
                LOOKS[look](tmp_path, replace(guards, slot_wait_s=0.05))
            waiting = thread.submit(LOOKS[look], tmp_path, guards)
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.result(60)
