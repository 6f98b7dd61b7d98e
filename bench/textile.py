"""Visual inspection of cloth: `python -m bench.textile`. A worker job on some images, evaluated on others.

Takes the textile images of the package conformal-clip-data (MIT; sound cloth, a local fault, a global fault), tunes
kastor-nano-vl on a few of each class, and classifies as many others by the label with the highest log-probability.
Prints the balanced accuracy of the tuned model, of the untuned one (with an untrained projector), and of guessing. On
two cores without matrix tiles the job takes 4 minutes per epoch at LOW and 11 at MEDIUM, and the evaluation as long
again; the bars apply to the job, with one epoch.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.bars import at_least, at_most, report
from bench.jobs import ran
from kastor.cli.demos.textile_data import LABELS, Picture, download_textiles, sample_pictures, split_pictures
from kastor.settings import COMPUTE_VARIABLES, Settings, load_settings

QUESTION = "Which kind of cloth is this: nominal, local or global?"
BASE = "kastor-nano-vl"
ACCURACY_BARS = {"LOW": 0.72, "MEDIUM": 0.80}
MOST_MINUTES = 15.0  # of the job, on two cores


def row(picture: Picture, resolution: str) -> dict[str, object]:
    """The example as a line of a dataset."""
    media = {"fileData": {"mimeType": "image/jpeg", "fileUri": str(picture.path)}}
    return {
        "contents": [
            {"role": "user", "parts": [media, {"text": QUESTION}]},
            {"role": "model", "parts": [{"text": picture.label}]},
        ],
        "generationConfig": {"mediaResolution": f"MEDIA_RESOLUTION_{resolution}"},
    }


def tuned(settings: Settings, pictures: Sequence[Picture], given: argparse.Namespace) -> Path:
    """Run a job on these images; the folder of its adapter."""
    from kastor.domain.job import RequestedHyperparameters

    source = settings.data_dir / "textile.jsonl"
    source.write_text("".join(json.dumps(row(picture, given.resolution)) + "\n" for picture in pictures))
    asked = RequestedHyperparameters(given.epochs, given.batch, given.rate)
    found = ran(settings, BASE, source, asked, name="textile", seed=given.seed)
    for event in found.events:
        print("  ", event.message)
    losses = [snapshot.mean_loss for snapshot in found.snapshots]
    fifth = max(1, len(losses) // 5)
    shown = ", ".join(f"{sum(losses[at : at + fifth]) / fifth:.3f}" for at in range(0, len(losses) - fifth + 1, fifth))
    print(f"   {len(losses)} steps of {found.job.spec.hyperparameters}; loss, fifth by fifth: {shown}")
    return found.adapter


class Judge:
    """The base with its tower, and the held-out images' features."""

    def __init__(self, settings: Settings, pictures: Sequence[Picture], resolution: str) -> None:
        from kastor.domain.content import Resolution
        from kastor.media.decode import PictureDecoder
        from kastor.models.catalog import load_catalog
        from kastor.models.chat.render import Renderer
        from kastor.models.download import ensure_local
        from kastor.models.load import compute_threads
        from kastor.models.vision.encoder import VisionEncoder

        self.base = load_catalog().base(BASE)
        assert self.base.family.vision is not None
        self.folder = ensure_local(self.base, settings.cache_dir)
        self.renderer = Renderer.open(self.folder, self.base.family)
        self.resolution = Resolution(resolution)
        grid = self.base.family.vision.layout(self.resolution, (1, 1))
        self.grid = grid
        encoder = VisionEncoder.open(
            self.folder, self.base.family.vision, num_threads=settings.num_threads or compute_threads()
        )
        self.pictures = pictures
        with closing(PictureDecoder()) as decoder:
            self.features = {
                str(picture.path): encoder.encode([decoder.picture(picture.path, (grid.width, grid.height))], [grid])
                for picture in pictures
            }

    def accuracy(self, adapter: Path | None) -> tuple[float, dict[str, float]]:
        """Balanced accuracy, and the share of each class that was recognised; without an adapter, of the base."""
        import torch

        from kastor.models.load import load_base
        from kastor.models.vision.projector import ChannelStats, Projector
        from kastor.training.checkpoints import load_adapter
        from kastor.training.fused_llama_cpu import use_fused_layers
        from kastor.training.lora import add_lora
        from kastor.training.loss import use_packed_attention
        from kastor.training.vision_inputs import VisionInputs

        model = add_lora(load_base(self.folder), self.base.adapter, seed=0)
        table = model.get_input_embeddings().weight
        projector = None if adapter is None else Projector.load(adapter)
        if adapter is not None:
            load_adapter(adapter, model)
        if projector is None:
            spread = ChannelStats.of([features[0] for features in self.features.values()])
            projector = Projector.fresh(spread, table.shape[1], scale=float(table.float().std()), seed=0)
        use_packed_attention(model)
        use_fused_layers(model)
        sight = VisionInputs(projector, lambda key, index: self.features[key][index])
        right: dict[str, list[bool]] = {label: [] for label in LABELS}
        with torch.inference_mode():
            for picture in self.pictures:
                right[picture.label].append(self._answer(model, sight, picture) == picture.label)
        shares = {label: sum(found) / len(found) for label, found in right.items()}
        return sum(shares.values()) / len(shares), shares

    def _answer(self, model: Any, sight: Any, picture: Picture) -> str:  # noqa: ANN401  # peft model, training.Sight
        """The likeliest label."""
        from kastor.domain.content import Content, Example, Media, Role, Text
        from kastor.domain.vision import MediumLayout
        from kastor.training.loss import sum_loss
        from kastor.training.packing import pack

        media = Media("image/jpeg", str(picture.path))
        losses = {}
        for label in LABELS:
            asked = Content(Role.USER, (media, Text(QUESTION)))
            example = Example((asked, Content(Role.MODEL, (Text(label),))))
            rendered = self.renderer.example(example, {media: MediumLayout(self.resolution, (self.grid,))}).keyed(
                {media: media.uri}
            )
            losses[label] = sum_loss(model, pack([rendered]), sight).item()
        return min(losses, key=lambda label: losses[label])


def main() -> None:
    """Draw, tune, judge, print."""
    parser = argparse.ArgumentParser(prog="bench.textile", description=__doc__)
    parser.add_argument("--resolution", choices=("LOW", "MEDIUM"), default="LOW")
    parser.add_argument("--train", type=int, default=300, help="images to train on, in equal parts of the classes")
    parser.add_argument("--held-out", type=int, default=300, help="likewise; one standard error of 300 is .025")
    parser.add_argument("--epochs", type=int, default=1, help="of the job; more fit better only where there is time")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-base", action="store_true", help="do not judge the untuned model")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    given = parser.parse_args()
    for variable, value in COMPUTE_VARIABLES.items():
        os.environ.setdefault(variable, value)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = load_settings(data_dir=folder / "data", media_folders=[folder / "images"], profile="open")
        settings.data_dir.mkdir()
        num_train, num_held_out = given.train // len(LABELS), given.held_out // len(LABELS)
        pictures = sample_pictures(
            download_textiles(settings.cache_dir, lambda progress: None),
            folder / "images",
            num_train + num_held_out,
            given.seed,
        )
        trained, held_out = split_pictures(pictures, num_train)
        print(
            f"{len(trained)} images to train on, {len(held_out)} held out, {given.resolution}; load {os.getloadavg()}"
        )
        adapter = tuned(settings, trained, given)
        minutes = (time.monotonic() - began) / 60
        judge = Judge(settings, held_out, given.resolution)
        print(f"guessing  {1 / len(LABELS):.3f}")
        for who, held in (("untuned", None), ("tuned", adapter))[given.no_base :]:
            accuracy, shares = judge.accuracy(held)
            print(f"{who:8}  {accuracy:.3f}  " + ", ".join(f"{label} {share:.2f}" for label, share in shares.items()))
    cpu = sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"job {minutes:.1f} min; in all {cpu / 60:.1f} min of processor time, peak {peak:.2f} GB")
    bars = [
        at_least(f"balanced accuracy at {given.resolution}", accuracy, ACCURACY_BARS[given.resolution]),
        at_most("the job, minutes", minutes, MOST_MINUTES),
    ]
    figures = {"accuracy": accuracy, "shares": shares, "minutes": minutes, "cpu_s": cpu, "asked": vars(given)}
    sys.exit(report(bars, figures, given.json))


if __name__ == "__main__":
    main()
