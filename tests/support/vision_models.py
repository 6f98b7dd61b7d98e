"""A tiny model of each pretrained vision family, with examples: an image, a video of two frames, both, text only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kastor.domain.content import Content, Example, Media, Part, Resolution, Role, Text
from kastor.domain.job import AdapterShape
from kastor.domain.vision import Grid, MediumLayout
from kastor.models.chat.families import FAMILIES, Family
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.load import load_base
from kastor.models.vision.encoder import Features, VisionEncoder, to_half_precision
from kastor.models.vision.grids import layout_of
from kastor.models.vision.preprocess import PREPROCESS_CONFIGS, normalise_pixels, patches, plain_patches, split_tiles
from kastor.training.lora import add_lora
from kastor.training.vision_inputs import VisionInputs
from support.tiny_vision_models import TINY_VL, tiny_gemma4_e, tiny_gemma4_moe

FAMILY_OF = {"gemma3": "gemma3-vl", "gemma4-moe": "gemma4"}  # by the name of the tower, where the family has another
BUILDERS = {**TINY_VL, "gemma4-e": tiny_gemma4_e, "gemma4-moe": tiny_gemma4_moe}
SEERS = ("gemma3", "gemma4", "gemma4-e", "gemma4-moe", "qwen3-vl", "qwen2.5-vl", "smolvlm", "idefics3", "llava")
NATIVE = {"gemma3": Resolution.MEDIUM, "llava": Resolution.HIGH}
"""The resolution at which transformers' own model pools as we do, where that is not every one."""
STILL, FILM = Media("image/png", "still.png"), Media("video/mp4", "film.mp4")
SHAPE = AdapterShape(4, 8.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class TinyVisionModel:
    """A base of one family in a folder, and pictures for it at one resolution."""

    name: str
    folder: Path
    resolution: Resolution

    @classmethod
    def make(cls, name: str, folder: Path, resolution: Resolution | None = None) -> "TinyVisionModel":
        """A fresh one, at the resolution that transformers' model has, too."""
        return cls(name, BUILDERS[name](folder), resolution or NATIVE.get(name, Resolution.LOW))

    @cached_property
    def family(self) -> Family:
        """The family, for pictures as this small model has them."""
        found = FAMILIES[FAMILY_OF.get(self.name, self.name)]
        assert found.vision is not None
        layout = layout_of(json.loads((self.folder / "config.json").read_bytes()))
        return replace(found, vision=replace(found.vision, layout=layout))

    @cached_property
    def renderer(self) -> Renderer:
        """Its renderer."""
        return Renderer.open(self.folder, self.family)

    @cached_property
    def views(self) -> Mapping[Media, MediumLayout]:
        """What it is shown of both media."""
        vision = self.family.vision
        assert vision is not None
        still, frame = vision.layout(self.resolution, (300, 200)), vision.layout(self.resolution, (200, 300))
        return {
            STILL: MediumLayout(self.resolution, (still,)),
            FILM: MediumLayout(self.resolution, (frame, frame), (0.0, 1.5)),
        }

    @cached_property
    def pictures(self) -> Mapping[str, list[tuple[Pixels, Grid]]]:
        """Random pixels of each picture, by the medium's address."""
        random = np.random.default_rng(1)
        return {
            media.uri: [(random.integers(0, 256, (g.height, g.width, 3), np.uint8), g) for g in view.grids]
            for media, view in self.views.items()
        }

    @cached_property
    def features(self) -> Mapping[str, list[Features]]:
        """What its tower makes of them, as it is stored."""
        return {uri: [to_half_precision(np.asarray(one)) for one in made] for uri, made in self._encoded.items()}

    @cached_property
    def _encoded(self) -> Mapping[str, list[NDArray[np.float32]]]:
        vision = self.family.vision
        assert vision is not None
        tower = VisionEncoder.open(self.folder, vision, num_threads=1).tower
        return {uri: [tower(p[None], g)[0] for p, g in held] for uri, held in self.pictures.items()}

    def sight(self, *, exact: bool = False) -> VisionInputs:
        """How training sees them; `exact` in fp32, as they come from the tower."""
        vision, held = self.family.vision, self._encoded if exact else self.features
        assert vision is not None
        return VisionInputs(None, lambda key, index: held[key][index], both_ways=vision.both_ways)

    def example(self, *parts: Part, answer: str = "yes") -> RenderedExample:
        """An example of these parts, rendered, with the keys of its pictures."""
        turns = (Content(Role.USER, parts), Content(Role.MODEL, (Text(answer),)))
        return self.renderer.example(Example(turns), self.views).keyed({STILL: STILL.uri, FILM: FILM.uri})

    @cached_property
    def examples(self) -> list[RenderedExample]:
        """Four."""
        return [
            self.example(Text("what is it? "), STILL, answer="a thing"),
            self.example(FILM, Text("when?"), answer="at the end of the film"),
            self.example(Text("only text")),
            self.example(STILL, Text(" and "), FILM, answer="both"),
        ]

    def tuned(self, seed: int = 2) -> Any:
        """Its base with a random adapter that does something."""
        model = add_lora(load_base(self.folder, dtype=torch.float32), SHAPE, seed=1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model

    def whole_inputs(self, example: RenderedExample) -> dict[str, Any]:
        """An example's pictures as transformers' whole model takes them, beside the token ids."""
        ids = torch.tensor(example.token_ids)[None]
        vision = self.family.vision
        assert vision is not None
        placeholder = self.renderer.tokenizer.token_to_id(vision.placeholder)
        shown = list(dict.fromkeys((picture.key, picture.index) for picture in example.pictures))
        given: dict[str, Any] = {"input_ids": ids}
        if not shown:
            return given
        held = [self.pictures[key][index] for key, index in shown]
        recipe = PREPROCESS_CONFIGS[vision.pretrained]
        kinds = (ids == placeholder).int()
        if self.name.startswith("qwen"):
            size = 14 if self.name == "qwen2.5-vl" else 16
            made = [patches(normalise_pixels(p[None], recipe), patch_size=size, merge=2, num_frames=2) for p, _ in held]
            grids = torch.tensor([[1, 2 * grid.rows, 2 * grid.columns] for _, grid in held])
            pixels = torch.from_numpy(np.concatenate(made))
            return given | {"pixel_values": pixels, "image_grid_thw": grids, "mm_token_type_ids": kinds}
        if self.name.startswith("gemma4"):
            return given | _padded([p for p, _ in held]) | {"mm_token_type_ids": kinds}
        cut = [split_tiles(p[None], grid) if grid.tiles != (1, 1) else p[None] for p, grid in held]
        pixels = torch.from_numpy(np.concatenate([normalise_pixels(one, recipe) for one in cut]))
        if self.name in ("smolvlm", "idefics3"):
            return given | {"pixel_values": pixels[None]}
        return given | {"pixel_values": pixels} | ({"token_type_ids": kinds} if self.name == "gemma3" else {})


def _padded(pictures: list[Pixels]) -> dict[str, torch.Tensor]:
    """Pictures of several sizes as Gemma 4's own processor gives them: patches and their places, -1 where none is."""
    each = [plain_patches(normalise_pixels(one[None], PREPROCESS_CONFIGS["gemma4"]), 16)[0] for one in pictures]
    most = max(len(one) for one in each)
    pixels = np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in each])
    places = np.full((len(each), most, 2), -1)
    for at, picture in enumerate(pictures):
        rows, columns = np.indices((picture.shape[0] // 16, picture.shape[1] // 16)).reshape(2, -1)
        places[at, : len(rows)] = np.stack([columns, rows], axis=-1)
    return {"pixel_values": torch.from_numpy(pixels), "image_position_ids": torch.from_numpy(places)}
