"""The child process that opens untrusted media: `python -m kastor.media.child GUARDS`.

Requests come in as JSON lines on standard input; each answer goes out as a length, a JSON header and, for pixels, their
raw bytes. The process ends when its input does, so it never outlives its parent.
"""

import dataclasses
import json
import os
import queue
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kastor.domain.media import FrameSampling, MediumError, Probe, Resampling, SamplingPlan
from kastor.media import rewriting
from kastor.media.confine import allow_cpu, confine
from kastor.media.guards import Guards
from kastor.media.sniff import NUM_BYTES, Opener, opener

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LENGTH = struct.Struct(">I")
IDLE_CPU_S = 30  # for the imports


def main() -> None:
    """Confine this process, then serve requests until the input ends."""
    guards = Guards(**json.loads(sys.argv[1]))
    allow_cpu(IDLE_CPU_S)
    confine(guards)
    output = _claim_output()
    for request in _requests():
        allow_cpu(float(request["cpu_s"]))
        _serve(request, guards, output)
        output.flush()


def _claim_output() -> BinaryIO:
    """The answers' channel, from which whatever a library prints is kept away."""
    channel = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    return channel


def _requests() -> Iterator[dict[str, Any]]:
    """Requests, read by a thread so that the input's end is seen in the midst of work."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


def _serve(request: dict[str, Any], guards: Guards, output: BinaryIO) -> None:
    try:
        path = Path(request["path"])
        head = _head(path)
        if request["do"] == "probe":
            _write(output, {"probe": _as_json(probe(path, head, guards))})
        elif request["do"] == "plan":
            _write(output, _planned(path, head, FrameSampling(**request["sampling"]), guards))
        elif request["do"] == "frames":
            _frames(path, head, request, guards, output)
        elif request["do"] in rewriting.REQUESTS:
            header, content = rewriting.answer(path, request, guards)
            _write(output, header | {"raw": len(content)}, content)
        else:
            pixels = _picture(path, head, request, guards)
            _write(output, _shape(pixels), pixels)
    except MediumError as bad:
        _write(output, {"fault": dataclasses.astuple(bad.fault)})
    except MemoryError:
        _write(
            output, {"fault": ("media_too_much_memory", "The file asks for more memory than a medium may have.", "")}
        )


def _head(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise MediumError.of("media_not_a_file", f"{path.name} is not a file.")
        with path.open("rb") as file:
            return file.read(NUM_BYTES)
    except OSError as error:
        raise MediumError.of("media_not_readable", f"The file cannot be read: {error.strerror}.") from error


def probe(path: Path, head: bytes, guards: Guards) -> Probe:
    """What the file is.

    Raises:
        MediumError: nothing we can use.

    """
    # each library is loaded for the first file that needs it
    which, name = opener(head)
    if which is Opener.CONTAINER:
        from kastor.media import containers

        return containers.probe_container(path, guards)
    if which is Opener.SOUND:
        from kastor.domain.media import MediaKind

        return Probe(MediaKind.AUDIO, name, path.stat().st_size)
    from kastor.media import pictures

    pictures.set_up(guards)
    return pictures.probe_pdf(path, guards) if which is Opener.PDF else pictures.probe_picture(path, guards)


def _planned(path: Path, head: bytes, sampling: FrameSampling, guards: Guards) -> dict[str, Any]:
    from kastor.media import containers
    from kastor.media.sample import sampling_plan

    _must_move(head)
    known, table = containers.probe_planned(path, guards)
    return {
        "probe": _as_json(known),
        "plan": _as_json(sampling_plan(table, sampling, max_moments=guards.max_moments)),
    }


def _must_move(head: bytes) -> None:
    which, _ = opener(head)
    if which is not Opener.CONTAINER:
        raise MediumError.of(
            "media_not_a_video", "The file is no video, so no frames can be sampled.", "Give its true mimeType."
        )


def _frames(path: Path, head: bytes, request: dict[str, Any], guards: Guards, output: BinaryIO) -> None:
    from kastor.media import moving

    _must_move(head)

    def send(pts: int, pixels: "NDArray[np.uint8]") -> None:
        _write(output, {"pts": pts, **_shape(pixels)}, pixels)
        output.flush()

    size = tuple(request["size"]) if request["size"] else None
    moving.decode(path, request["pts"], size, guards, send, Resampling(request["resample"]))
    _write(output, {"end": True})


def _picture(path: Path, head: bytes, request: dict[str, Any], guards: Guards) -> "NDArray[np.uint8]":
    from kastor.media import pictures

    which, _ = opener(head)
    if which not in (Opener.PICTURE, Opener.PDF):
        raise MediumError.of(
            "media_not_a_picture", "The file is neither a picture nor a PDF.", "Give its true mimeType."
        )
    pictures.set_up(guards)
    size = tuple(request["size"]) if request["size"] else None
    resample = Resampling(request["resample"])
    if which is Opener.PDF:
        return pictures.pdf_page(path, request["page"], size, guards, resample)
    return pictures.picture(path, size, guards, resample, request["scaling"])


def _shape(pixels: "NDArray[np.uint8]") -> dict[str, Any]:
    return {"height": pixels.shape[0], "width": pixels.shape[1], "raw": pixels.nbytes}


def _write(output: BinaryIO, header: dict[str, Any], pixels: "NDArray[np.uint8] | bytes | None" = None) -> None:
    text = json.dumps(header).encode()
    output.write(LENGTH.pack(len(text)) + text)
    if isinstance(pixels, bytes):
        output.write(pixels)
    elif pixels is not None:
        output.write(pixels.data if pixels.flags.c_contiguous else pixels.tobytes())


def _as_json(value: Probe | SamplingPlan) -> dict[str, Any]:
    fields = dataclasses.asdict(value)
    if isinstance(value, SamplingPlan):
        fields["time_base"] = [value.time_base.numerator, value.time_base.denominator]
    return fields


if __name__ == "__main__":
    main()
