"""The parent's side of a child process that opens untrusted media (`media.child`).

The child inherits two pipes and a scratch file: no socket, nothing else of this process or its environment. It bounds
itself (`media.confine`); the wall clock is kept here, and only while we wait for it, not while a slow reader keeps it
waiting.
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kastor.domain.media import MediaFault
from kastor.media.decode_limits import DecodeLimits

LENGTH = struct.Struct(">I")
MAX_HEADER_BYTES = 64 << 20  # a plan of 50,000 moments has 2 MB
MAX_RAW_BYTES = 1 << 30
KILL_WAIT_S = 5.0
DYING_S = 0.5
LAST_WORDS_BYTES = 300


class SandboxCrashed(Exception):
    """The child ended, fell silent or talked nonsense; `fault` is what to say of the file it was at."""

    def __init__(self, fault: MediaFault, *, timed_out: bool) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.timed_out = timed_out


class TimeBudget:
    """Seconds of waiting that are left."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds


class SandboxProcess:
    """One child process; ended by `close`, or when this object's process ends."""

    def __init__(self, guards: DecodeLimits) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._process = subprocess.Popen(  # noqa: S603  # our own module and values
            [
                sys.executable,
                "-P",
                "-s",
                "-m",
                "kastor.media.decoder_process.main",
                json.dumps(dataclasses.asdict(guards)),
            ],
            env=_environment(),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is the parent's
        )
        self.num_answers = 0

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, request: dict[str, Any]) -> None:
        """Ask; at most a few requests may be unanswered, as more than the pipe holds would block.

        Raises:
            SandboxCrashed: it is gone.

        """
        try:
            _input(self._process).write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._died() from error

    def receive(self, patience: TimeBudget) -> tuple[dict[str, Any], bytearray]:
        """The next answer: its header and its raw bytes, if any.

        Raises:
            SandboxCrashed: it is gone, or `patience` is at an end.

        """
        (length,) = LENGTH.unpack(self._read(LENGTH.size, patience))
        if length > MAX_HEADER_BYTES:
            raise self._died()
        try:
            header = json.loads(bytes(self._read(length, patience)))
            num_raw = int(header.get("raw", 0))
        except (ValueError, AttributeError, TypeError) as error:
            raise self._died() from error
        if not 0 <= num_raw <= MAX_RAW_BYTES:
            raise self._died()
        raw = self._read(num_raw, patience)
        self.num_answers += 1
        return header, raw

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_WAIT_S)
        with contextlib.suppress(OSError):
            _input(self._process).close()
        _output(self._process).close()
        self._errors.close()

    def _read(self, count: int, patience: TimeBudget) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        descriptor = _output(self._process).fileno()
        poller = select.poll()  # select() knows no descriptor above 1,023
        poller.register(descriptor, select.POLLIN)
        done = 0
        while done < count:
            began = time.monotonic()
            ready = poller.poll(max(0.0, patience.left_s) * 1000)
            patience.left_s -= time.monotonic() - began
            if not ready:
                self._process.kill()
                raise SandboxCrashed(_timed_out(), timed_out=True)
            got = os.readv(descriptor, [view[done:]])
            if not got:
                raise self._died()
            done += got
        return data

    def _died(self) -> SandboxCrashed:
        try:
            code = self._process.wait(DYING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # it is not dead but talks nonsense
            code = self._process.wait()
        if code == -signal.SIGXCPU:
            return SandboxCrashed(_timed_out(), timed_out=True)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        words = self._last_words()
        return SandboxCrashed(
            MediaFault(
                "decoder_crashed",
                f"The decoder did not survive this file ({how}{': ' + words if words else ''}).",
                "The file is damaged or hostile; export it again from the original.",
            ),
            timed_out=False,
        )

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_WORDS_BYTES))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def _timed_out() -> MediaFault:
    return MediaFault(
        "decoder_timeout",
        "The decoder took far longer over this file than any honest file of its kind takes.",
        "Encode it anew: `ffmpeg -i IN -c:v libx264 OUT.mp4`.",
    )


def _environment() -> dict[str, str]:
    """Where to find our own packages, and threads and memory arenas kept few; nothing that this process was given."""
    paths = [str(Path(entry).resolve()) for entry in sys.path if entry]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }


def _input(process: subprocess.Popen[bytes]) -> Any:  # noqa: ANN401  # unbuffered: io.FileIO
    return process.stdin


def _output(process: subprocess.Popen[bytes]) -> Any:  # noqa: ANN401  # unbuffered: io.FileIO
    return process.stdout
