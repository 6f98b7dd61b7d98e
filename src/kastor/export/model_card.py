"""The model card of a merged export: what it is, and how to use it with and without Kastor. No torch."""

from kastor.domain.vision import VisionSpec
from kastor.export.request import ExportRequest

CARD = """\
# {name}

{what}, written by `kastor export --format merged` from job {job}.
`kastor-export.json` says how near it comes to what Kastor serves, and holds the sha256 of each file.
Licence of the base: {licence}

## As a base of Kastor

With this entry in a catalog file (the setting `catalog_file` names its path), Kastor serves it and tunes it further:

```toml
{entry}```

## With transformers

```python
from transformers import {auto}, {reader}

model, {reads} = {auto}.from_pretrained({folder}), {reader}.from_pretrained({folder})
```
"""

VISION_CARD = """
## How it reads pictures

transformers alone reads the language model, which `config.json` and `model.safetensors` hold. Pictures need two more
files:

- `tower.safetensors`: the vision tower, sha256 {tower}.
  An RGB picture, scaled to a square of {sizes} pixels (bicubic, ignoring its aspect ratio), becomes {tokens}
  features.
- `projector.safetensors`: turns features into embeddings of the language model, in 32 bits:
  `outer(gelu(inner(x))) * scale + average @ aligned_CW + aligned_W`, where `x` is `(features - mean_C) / deviation_C`
  and `average` that of the picture's features; without the last two where the file has no `aligned_CW`.

In the prompt a picture is the control token `{placeholder}` once for each of its features{around}; the
embeddings of these tokens are replaced by what the projector gives. A frame of a video has its moment (`01:02.5`)
before it, as text.
Turns are written as the family `{family}` of Kastor writes them.

With Kastor's own parts, without its server:

```python
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from kastor.domain.content import Content, Media, Prompt, Resolution, Role, Text
from kastor.domain.vision import MediumLayout
from kastor.media.decode import request_picture
from kastor.models.chat.families import FAMILIES
from kastor.models.vision.projector import Projector
from kastor.models.chat.render import Renderer
from kastor.models.vision.encoder import VisionEncoder

folder, family = Path({folder}), FAMILIES["{family}"]
model, projector = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), Projector.load(folder)

image, grid = Media("image/jpeg", "picture.jpg"), family.vision.layout(family.vision.default, (1024, 1024))
prompt = Prompt((Content(Role.USER, (image, Text("What is this?"))),))
layouts = {{image: MediumLayout(family.vision.default, (grid,))}}
tokens = Renderer.open(folder, family).prompt_with_pictures(prompt, layouts)

pixels = request_picture(Path(image.uri), (grid.width, grid.height))
features = VisionEncoder.open(folder, family.vision, num_threads=2).encode([pixels], [grid])
embeddings = model.get_input_embeddings()(torch.tensor(tokens.token_ids))
start, size = tokens.pictures[0].start, tokens.pictures[0].num_tokens
with torch.inference_mode():
    embeddings[start : start + size] = projector(torch.from_numpy(features[0]), [size])
    answer = model.generate(inputs_embeds=embeddings[None], max_new_tokens=40, do_sample=False)
```
"""

TEXT_READERS = {"auto": "AutoModelForCausalLM", "reader": "AutoTokenizer", "reads": "tokenizer"}
VISION_READERS = {"auto": "AutoModelForImageTextToText", "reader": "AutoProcessor", "reads": "processor"}
SQUARE = (1024, 1024)

NO_PROJECTOR = """
It cannot read pictures yet: it was tuned on text alone, so there is no `projector.safetensors`. Tune it on pictures
first.
"""


def model_card(order: ExportRequest, vision: VisionSpec | None, tower: str, *, has_projector: bool) -> str:
    """The text of README.md; `tower` is the hash of the vision tower's weights, if there is one."""
    folder = repr(str(order.out))
    what = f"`{order.base_model}` with the adapter of `{order.model}` added to its weights"
    text = CARD.format(
        name=order.model.rpartition("/")[2] or order.job,
        what=what,
        job=order.job,
        licence=order.licence,
        entry=order.catalog_entry,
        folder=folder,
        **(VISION_READERS if vision is not None and vision.pretrained else TEXT_READERS),
    )
    if vision is None or vision.pretrained:
        return text
    if not has_projector:
        return text + NO_PROJECTOR
    grids = {vision.layout(resolution, SQUARE) for resolution in vision.resolutions}
    ordered = sorted((grid.width, grid.num_tokens) for grid in grids)
    sizes, tokens = (" or ".join(str(pair[which]) for pair in ordered) for which in (0, 1))
    around = [
        f"{verb} {edge!r}" for verb, edge in (("preceded by", vision.before), ("followed by", vision.after)) if edge
    ]
    return text + VISION_CARD.format(
        tower=tower,
        sizes=sizes,
        tokens=tokens,
        placeholder=vision.placeholder,
        around=", " + " and ".join(around) if around else "",
        family=order.family,
        folder=folder,
    )
