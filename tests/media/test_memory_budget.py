"""Decoders share one budget of memory: whoever would be one too many waits, in this process and in others."""

import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kastor.domain.errors import FailedPrecondition, Unavailable
from kastor.domain.media import FrameSampling, MediumError, SamplingPlan
from kastor.media.decode import request_frames, request_picture
from kastor.media.decode_limits import DecodeLimits
from kastor.media.memory_budget import decoder_slot
from kastor.media.probe import plan, probe
from support.films import make_film


@pytest.fixture(name="guards")
def some_guards(tmp_path: Path) -> DecodeLimits:
    (tmp_path / "slots").mkdir()
    return DecodeLimits(max_decoders=2, slots_folder=str(tmp_path / "slots"))


def test_never_more_are_at_work_than_there_is_memory_for(guards: DecodeLimits) -> None:
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
LOOKS: dict[str, Callable[[Path, DecodeLimits], object]] = {
    "probe": lambda folder, guards: probe(folder / "a.png", guards),
    "picture": lambda folder, guards: len(request_picture(folder / "a.png", guards=guards)),
    "plan": lambda folder, guards: plan(folder / "a.mp4", FrameSampling(), guards),
    "frames": lambda folder, guards: len(list(request_frames(folder / "a.mp4", FILM_PLAN, None, guards))),
}


@pytest.mark.parametrize("look", LOOKS)
def test_whatever_opens_a_medium_waits_for_its_share(look: str, guards: DecodeLimits, tmp_path: Path) -> None:
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


BOMB_SIDE = 14_000
TIGHT = DecodeLimits(address_space_bytes=400 << 20)


def _packed(row: bytes, num_rows: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(row * 100) for _ in range(num_rows // 100)) + packer.flush()


def _red_pdf() -> bytes:
    """A page with a picture of 588 MB, in half a megabyte."""
    data = _packed(b"\xff\0\0" * BOMB_SIDE, BOMB_SIDE)
    show = b"q 72 0 0 72 0 0 cm /I Do Q"
    size = b"/Width %d/Height %d/ColorSpace/DeviceRGB/BitsPerComponent 8" % (BOMB_SIDE, BOMB_SIDE)
    held = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]/Contents 4 0 R/Resources<</XObject<</I 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(show), show),
        b"<</Subtype/Image%s/Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (size, len(data), data),
    ]
    objects = b"".join(b"%d 0 obj%s endobj\n" % (number, text) for number, text in enumerate(held, start=1))
    return b"%PDF-1.4\n" + objects + b"trailer<</Root 1 0 R>>\n%%EOF"


def _png() -> bytes:
    """49 megapixels of 16-bit colours, 294 MB, in less than half a megabyte."""
    header, data = struct.pack(">IIBBBBB", 7000, 7000, 16, 2, 0, 0, 0), _packed(bytes(1 + 6 * 7000), 7000)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    body = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_a_picture_within_a_page_is_never_whole_in_memory(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(_red_pdf())
    pixels = request_picture(tmp_path / "a.pdf", (32, 32), guards=TIGHT)
    assert np.asarray(pixels).reshape(-1, 3).mean(axis=0).tolist() == [255, 0, 0]


def test_a_picture_that_takes_more_than_its_share_is_named_and_one_within_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png())
    with pytest.raises(MediumError) as caught:
        request_picture(tmp_path / "a.png", guards=TIGHT)
    assert caught.value.fault.rule == "media_too_much_memory"
    assert request_picture(tmp_path / "a.png", (32, 32)).shape == (32, 32, 3)


@pytest.mark.parametrize("taken", ["by others' mode", "by a link", "by a file"])
def test_where_the_folder_of_slots_is_taken_another_is_used(
    taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    folder = tmp_path / f".kastor-decoders-{os.geteuid()}"
    if taken == "by a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif taken == "by a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with decoder_slot(DecodeLimits(max_decoders=2)):
        assert [path.name for path in (tmp_path / "run" / "kastor-decoders").iterdir()] == ["0.lock"]
    assert not folder.is_dir() or not list(folder.iterdir())


def test_where_every_place_is_taken_the_message_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / f".kastor-decoders-{os.geteuid()}").touch()
    with pytest.raises(FailedPrecondition, match="only this user can open"), decoder_slot(DecodeLimits(max_decoders=2)):
        pass
