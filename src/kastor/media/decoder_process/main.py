"""The child process that opens untrusted media: `python -m kastor.media.decoder_process.main GUARDS`.

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
from kastor.media.decode_limits import DecodeLimits
from kastor.media.decoder_process import transcode_requests
from kastor.media.decoder_process.process_limits import apply_process_limits, set_cpu_limit
from kastor.media.file_type import NUM_BYTES, DecoderLibrary, detect_library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LENGTH = struct.Struct(">I")
IDLE_CPU_S = 30  # for the imports


def main() -> None:
    """Confine this process, then serve requests until the input ends."""
    guards = DecodeLimits(**json.loads(sys.argv[1]))
    set_cpu_limit(IDLE_CPU_S)
    apply_process_limits(guards)
    output = _claim_output()
    for request in _requests():
        set_cpu_limit(float(request["cpu_s"]))
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


def _serve(request: dict[str, Any], guards: DecodeLimits, output: BinaryIO) -> None:
    try:
        path = Path(request["path"])
        head = _head(path)
        if request["do"] == "probe":
            _write(output, {"probe": _as_json(probe(path, head, guards))})
        elif request["do"] == "plan":
            _write(output, _planned(path, head, FrameSampling(**request["sampling"]), guards))
        elif request["do"] == "frames":
            _frames(path, head, request, guards, output)
        elif request["do"] in transcode_requests.REQUESTS:
            header, content = transcode_requests.answer(path, request, guards)
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


def probe(path: Path, head: bytes, guards: DecodeLimits) -> Probe:
    """What the file is.

    Raises:
        MediumError: nothing we can use.

    """
    # each library is loaded for the first file that needs it
    which, name = detect_library(head)
    if which is DecoderLibrary.CONTAINER:
        from kastor.media.decoder_process import containers

        return containers.probe_container(path, guards)
    if which is DecoderLibrary.SOUND:
        from kastor.domain.media import MediaKind

        return Probe(MediaKind.AUDIO, name, path.stat().st_size)
    from kastor.media.decoder_process import image_decode

    image_decode.register_decoders(guards)
    return (
        image_decode.probe_pdf(path, guards)
        if which is DecoderLibrary.PDF
        else image_decode.probe_picture(path, guards)
    )


def _planned(path: Path, head: bytes, sampling: FrameSampling, guards: DecodeLimits) -> dict[str, Any]:
    from kastor.media.decoder_process import containers
    from kastor.media.frame_sampling import sampling_plan

    _must_move(head)
    known, table = containers.probe_planned(path, guards)
    return {
        "probe": _as_json(known),
        "plan": _as_json(sampling_plan(table, sampling, max_moments=guards.max_moments)),
    }


def _must_move(head: bytes) -> None:
    which, _ = detect_library(head)
    if which is not DecoderLibrary.CONTAINER:
        raise MediumError.of(
            "media_not_a_video", "The file is no video, so no frames can be sampled.", "Give its true mimeType."
        )


def _frames(path: Path, head: bytes, request: dict[str, Any], guards: DecodeLimits, output: BinaryIO) -> None:
    from kastor.media.decoder_process import video_decode

    _must_move(head)

    def send(pts: int, pixels: "NDArray[np.uint8]") -> None:
        _write(output, {"pts": pts, **_shape(pixels)}, pixels)
        output.flush()

    size = tuple(request["size"]) if request["size"] else None
    video_decode.decode_frames(path, request["pts"], size, guards, send, Resampling(request["resample"]))
    _write(output, {"end": True})


def _picture(path: Path, head: bytes, request: dict[str, Any], guards: DecodeLimits) -> "NDArray[np.uint8]":
    from kastor.media.decoder_process import image_decode

    which, _ = detect_library(head)
    if which not in (DecoderLibrary.PICTURE, DecoderLibrary.PDF):
        raise MediumError.of(
            "media_not_a_picture", "The file is neither a picture nor a PDF.", "Give its true mimeType."
        )
    image_decode.register_decoders(guards)
    size = tuple(request["size"]) if request["size"] else None
    resample = Resampling(request["resample"])
    if which is DecoderLibrary.PDF:
        return image_decode.pdf_page(path, request["page"], size, guards, resample)
    return image_decode.decode_picture(path, size, guards, resample, request["scaling"])


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
