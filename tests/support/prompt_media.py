"""Media in prompts, and a model tuned on images, for tests of generation with media."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from kastor.domain.content import Content, Media, Prompt, Resolution, Role, Text
from kastor.domain.generation import ResolvedMedia
from kastor.domain.permission import Principal
from kastor.domain.request_limits import OPEN
from kastor.media.cache import MediaCache
from kastor.models.chat.families import LLAMA_LINEARS, Family
from kastor.services.media_inspector import LocalMediaInspector
from kastor.services.prompt_media import PromptMediaResolver
from support.films import Recipe, make_film, painted
from support.tiny_models import TOWER_CHANNELS

ADA = Principal("ada@example.org")


def make_picture(path: Path, number: int) -> Media:
    """A PNG of the number."""
    PIL.Image.fromarray(painted(number, (64, 48), noise=True)).save(path)
    return Media("image/png", str(path))


def make_video(path: Path, **changes: Any) -> Media:
    """A film of 2.5 s: three frames at one a second."""
    return Media("video/mp4", str(make_film(path, Recipe(noise=True))), **changes)


def prompt_of(*parts: Media | str, resolution: Resolution | None = None) -> Prompt:
    """A user's turn."""
    listed = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    return Prompt((Content(Role.USER, listed),), resolution=resolution)


def no_uploads(name: str, caller: Principal) -> Path:
    """Where an uploaded file lies."""
    raise AssertionError(name)


def shown_in(
    folder: Path, prompt: Prompt, family: Family, *, path_of: Callable[..., Path] = no_uploads
) -> ResolvedMedia:
    """What the family is shown of a prompt's media, which lie in `folder`."""
    eyes = LocalMediaInspector(MediaCache(folder / "cache" / "media"), [folder])
    return PromptMediaResolver(eyes, path_of).resolve(prompt, family.vision, "models/tiny", ADA, OPEN)


def tuned_on_pictures(base: Any, folder: Path, *, tower: str, preprocessing: int, seed: int = 3) -> Any:
    """An adapter with a projector as training publishes it, into `folder`; the model and projector it is of."""
    import torch

    from kastor.domain.job import AdapterShape
    from kastor.models.vision.projector import ChannelStats, Projector
    from kastor.training.checkpoints import CheckpointWriter
    from kastor.training.lora import add_lora

    model = add_lora(base, AdapterShape(rank=4, alpha=8.0, targets=LLAMA_LINEARS), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    spread = ChannelStats(np.full(TOWER_CHANNELS, 0.1), np.full(TOWER_CHANNELS, 2.0))
    scale = float(model.get_input_embeddings().weight.float().std())
    projector = Projector.fresh(spread, model.get_input_embeddings().weight.shape[1], scale=scale, seed=seed)
    about = {"vision": {"tower": tower, "preprocessing": preprocessing}}
    checkpoints = CheckpointWriter(folder.parent / f"checkpoints-of-{folder.name}")
    checkpoint = checkpoints.save(model, {}, step=1, ends_epoch=True, about=about, projector=projector)
    checkpoints.publish(checkpoint, folder, lambda _: "{}")
    return model, projector


def trained_logprobs(model: Any, projector: Any, prompt: Any, answer: Sequence[int], read: Any) -> list[float]:
    """Log-probabilities that training's own forward pass gives to each token of an answer to the rendered prompt.

    `prompt` is `Rendered` with keys, `read` gives a picture's features by key and index.
    """
    import torch

    from kastor.models.chat.render import RenderedExample
    from kastor.training.loss import sum_loss, use_packed_attention
    from kastor.training.packing import pack
    from kastor.training.vision_inputs import VisionInputs

    use_packed_attention(model)
    ids, found = prompt.token_ids + list(answer), []
    for place in range(len(prompt.token_ids), len(ids)):
        row = pack([RenderedExample(ids, [at == place for at in range(len(ids))], prompt.pictures)])
        with torch.no_grad():
            found.append(-float(sum_loss(model, row, VisionInputs(projector, read))))
    return found
