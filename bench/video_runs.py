"""The processes that `bench.video` measures: worker jobs, or a loop that decodes and encodes again in each epoch.

`python -m bench.video_runs ORDER` runs the order, a JSON object, and prints its measurements as the last line.
"""

import dataclasses
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.jobs import Queue, ran
from kastor.settings import COMPUTE_VARIABLES, Settings, load_settings

BASE = "kastor-nano-vl"
DECODER = "kastor.media.decoder_process.main"
WATCH_EVERY_S = 0.1

Pixels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What to run."""

    what: str  # job | loop | after
    root: str  # folder of the data, the cache and the videos
    rows: str  # the dataset's file
    name: str  # of the job
    epochs: int
    batch: int
    asked_at: float  # seconds since the epoch, when the process was started
    reader: str = ""  # of a loop: how videos are decoded
    at_most: int = 0  # of a loop: epochs to run; 0 is all


@dataclasses.dataclass(slots=True)
class Watch:
    """What looking at media takes, as it goes on: (seconds since the epoch, value so far)."""

    decoding: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # CPU s of all child processes
    working: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # CPU s of this one
    decoders: set[int] = dataclasses.field(default_factory=set)
    encoded: list[tuple[float, int]] = dataclasses.field(default_factory=list)  # when, pictures of a call of the tower

    def start(self) -> None:
        """Watch until the process ends."""
        from kastor.models.vision.encoder import VisionEncoder

        encode = VisionEncoder.encode

        def counted(encoder: VisionEncoder, pictures: Sequence[Pixels], *grids: Any) -> Any:  # noqa: ANN401  # features
            self.encoded.append((time.time(), len(pictures)))
            return encode(encoder, pictures, *grids)

        VisionEncoder.encode = counted  # type: ignore[method-assign]
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        me = psutil.Process()
        while True:
            self.look(me)
            time.sleep(WATCH_EVERY_S)

    def look(self, me: psutil.Process) -> None:
        """Note what child processes, living and ended, have used by now."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = used.ru_utime + used.ru_stime
        for child in me.children(recursive=True):
            try:
                times, command = child.cpu_times(), child.cmdline()
            except psutil.Error:
                continue
            total += times.user + times.system
            if DECODER in command:
                self.decoders.add(child.pid)
        self.decoding.append((time.time(), total))
        self.working.append((time.time(), time.process_time()))

    def spent(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        self.look(psutil.Process())
        return dataclasses.asdict(self) | {"decoders": len(self.decoders)}


def job(order: Order) -> dict[str, Any]:
    """A job of the worker."""
    from kastor.domain.job import RequestedHyperparameters

    watch = Watch()
    watch.start()
    settings = _settings(order)
    asked = RequestedHyperparameters(order.epochs, order.batch, None)
    found = ran(settings, BASE, Path(order.rows), asked, name=order.name)
    return {
        "steps": [_step(one.epoch, one.computed_at.timestamp(), one.elapsed_s, one) for one in found.snapshots],
        "events": [(event.at.timestamp(), event.message) for event in found.events],
        **watch.spent(),
    }


def after(order: Order) -> dict[str, Any]:
    """One job after another on the same data, in processes as the server has them: when each began its first step.

    Before the first none waits; before the second a spare worker does.
    """
    from kastor.domain.job import RequestedHyperparameters

    asked, begun = RequestedHyperparameters(order.epochs, order.batch, None), []
    with Queue.opened(_settings(order)) as queue, queue.served(spare_idle_s=600) as served:
        for name in (f"{order.name}-fresh", f"{order.name}-spare"):
            if begun:
                served.wait_for_spare()
            asked_at = time.time()
            queue.add(BASE, Path(order.rows), asked, name=name)
            served.finish(name)
            first = queue.left(name).snapshots[0]
            begun.append(first.computed_at.timestamp() - first.elapsed_s - asked_at)
    return {"begun_s": begun}


def _settings(order: Order) -> Settings:
    root = Path(order.root)
    settings = load_settings(
        data_dir=root / "data", cache_dir=root / "cache", media_folders=[root / "videos"], profile="open"
    )
    settings.data_dir.mkdir(exist_ok=True)
    return settings


def _step(epoch: int, ended_at: float, elapsed_s: float, one: Any) -> dict[str, Any]:  # noqa: ANN401  # either report
    return {"epoch": epoch, "ended_at": ended_at, "elapsed_s": elapsed_s, "tokens": one.num_tokens}


def loop(order: Order) -> dict[str, Any]:
    """The trainer of the worker on the same rows, but each example's video is decoded and encoded when it is used.

    The next step's begin waits for its pictures, as everything here uses all cores already.
    """
    import torch

    from kastor.domain.job import RequestedHyperparameters, TuningSpec, resolve_hyperparameters
    from kastor.domain.request_limits import PROFILES
    from kastor.models.catalog import load_catalog
    from kastor.models.download import ensure_local
    from kastor.models.load import compute_threads, load_base
    from kastor.models.vision.projector import ChannelStats, Projector
    from kastor.training.loop import Trainer
    from kastor.training.lora import add_lora
    from kastor.training.vision_inputs import VisionInputs

    torch.set_num_threads(compute_threads())
    base = load_catalog().base(BASE)
    folder = ensure_local(base, Path(order.root) / "cache")
    looked = LookedAt(Path(order.rows), base, folder, order.reader)
    settled = resolve_hyperparameters(
        RequestedHyperparameters(order.epochs, order.batch, None), len(looked), PROFILES["open"], has_media=True
    )
    model = add_lora(load_base(folder), base.adapter, seed=0)
    table = model.get_input_embeddings().weight
    looked[0]
    projector = Projector.fresh(
        ChannelStats.of(looked.features["0"]), table.shape[1], scale=float(table.float().std()), seed=0
    )
    sight = VisionInputs(projector, lambda key, index: looked.features[key][index])
    trainer = Trainer(model, looked, TuningSpec(BASE, settled, base.adapter, len(looked)), sight)
    steps = []
    while not trainer.done and (not order.at_most or trainer.step * order.batch < order.at_most * len(looked)):
        report = trainer.run_step()
        looked.forget()
        steps.append(_step(report.epoch, time.time(), report.elapsed_s, report))
    return {"steps": steps, "decode_s": looked.decode_s, "encode_s": looked.encode_s}


class LookedAt(Sequence[Any]):
    """The rows as examples; each one's video is decoded and encoded whenever it is asked for."""

    def __init__(self, rows: Path, base: Any, folder: Path, reader: str) -> None:  # noqa: ANN401  # catalog.BaseModel
        from kastor.models.chat.render import Renderer
        from kastor.models.load import compute_threads
        from kastor.models.vision.encoder import VisionEncoder

        self._rows = [json.loads(line) for line in rows.read_text().splitlines()]
        self._vision = base.family.vision
        self._renderer = Renderer.open(folder, base.family)
        self._encoder = VisionEncoder.open(folder, self._vision, num_threads=compute_threads())
        self._read = READERS[reader]
        self.features: dict[str, list[NDArray[np.float16]]] = {}
        self.decode_s = self.encode_s = 0.0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401  # int -> Rendered
        from kastor.domain.content import Content, Example, Media, Resolution, Role, Text
        from kastor.domain.vision import MediumLayout

        media, asked = self._rows[index]["contents"][0]["parts"]
        answer = self._rows[index]["contents"][1]["parts"][0]["text"]
        wanted = self._rows[index]["generationConfig"]["mediaResolution"]
        resolution = Resolution(wanted.removeprefix("MEDIA_RESOLUTION_"))
        fps = media["videoMetadata"]["fps"]
        began = time.perf_counter()
        grid = self._vision.layout(resolution, (1, 1))
        pictures = list(self._read(Path(media["fileData"]["fileUri"]), fps, grid.width))
        decoded = time.perf_counter()
        grids = (grid,) * len(pictures)
        self.features[str(index)] = self._encoder.encode(pictures, grids)
        self.decode_s += decoded - began
        self.encode_s += time.perf_counter() - decoded
        shown = Media("video/mp4", f"{index}", fps=fps)
        view = MediumLayout(resolution, grids, tuple(number / fps for number in range(len(pictures))))
        example = Example((Content(Role.USER, (shown, Text(asked["text"]))), Content(Role.MODEL, (Text(answer),))))
        return self._renderer.example(example, {shown: view}).keyed({shown: str(index)})

    def forget(self) -> None:
        """Let the features of the last step go."""
        self.features.clear()


def _one_after_the_other(path: Path, fps: float, side: int) -> Iterator[Pixels]:
    """As loaders of videos do it: every frame is decoded, on all cores, and those wanted are kept."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        due = 0
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= due / fps - 1e-6:
                due += 1
                yield frame.reformat(side, side, "rgb24").to_ndarray()


def _as_kastor(path: Path, fps: float, side: int) -> Iterator[Pixels]:
    """By our own decoder."""
    from kastor.domain.media import FrameSampling
    from kastor.media.decode import request_frames
    from kastor.media.probe import plan

    for frame in request_frames(path, plan(path, FrameSampling(fps=fps)).plan, (side, side)):
        yield frame.pixels


READERS = {"sequential": _one_after_the_other, "kastor": _as_kastor}


def main() -> None:
    """Do as ordered, and print it."""
    for variable, value in COMPUTE_VARIABLES.items():
        os.environ.setdefault(variable, value)
    order = Order(**json.loads(sys.argv[1]))
    found = {"job": job, "loop": loop, "after": after}[order.what](order)
    mine, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found |= {
        "asked_at": order.asked_at,
        "ended_at": time.time(),
        "cpu_s": sum(used.ru_utime + used.ru_stime for used in (mine, children)),
        "peak_bytes": mine.ru_maxrss * 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
