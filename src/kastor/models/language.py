"""The language model inside a base: from what stands in the places of a row, through its decoder, to logits.

Bases that see are whole models of transformers with the language model inside; those that only read are nothing else.
Training, serving and exports come through here, so that a picture's embeddings are put in their places in one way.

Shapes: T tokens of a row, V of them in pictures, W width of the language model, D layers with additions for pictures,
C what a picture's token is given: W, or W * (1 + D).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Model = Any  # transformers.PreTrainedModel, or peft's around it; their types are not checked


@dataclass(frozen=True, slots=True)
class Places:
    """What the decoder is given for a row: embeddings, and what further layers add where pictures are."""

    embeddings_TW: torch.Tensor
    pictures_V: torch.Tensor  # places of pictures' tokens, ascending
    deep: tuple[torch.Tensor, ...] = ()  # of each of the first D layers what is added to its output there, (V, W)

    @classmethod
    def of(cls, embeddings_TW: torch.Tensor, pictures_V: torch.Tensor, made_VC: torch.Tensor) -> "Places":
        """The embeddings of tokens with what was made of pictures in their places; gradients flow through both."""
        made = made_VC.to(embeddings_TW.dtype)
        first_VW, *deep = made.split(embeddings_TW.shape[1], dim=1)
        return cls(embeddings_TW.index_copy(0, pictures_V, first_VW), pictures_V, tuple(deep))

    @classmethod
    def joined(cls, parts: Sequence["Places"]) -> "Places":
        """Rows end to end."""
        begin, places = 0, []
        for part in parts:
            places.append(part.pictures_V + begin)
            begin += len(part.embeddings_TW)
        layers = zip(*[part.deep for part in parts if part.deep], strict=True)
        return cls(
            torch.cat([part.embeddings_TW for part in parts]),
            torch.cat(places),
            tuple(torch.cat(layer) for layer in layers),
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """What the decoder is called with."""
        given: dict[str, Any] = {"inputs_embeds": self.embeddings_TW[None]}
        if self.deep:  # Qwen3-VL's deepstack
            mask_T = torch.zeros(len(self.embeddings_TW), dtype=torch.bool, device=self.embeddings_TW.device)
            given |= {"visual_pos_masks": mask_T.index_fill(0, self.pictures_V, True)[None]}
            given |= {"deepstack_visual_embeds": list(self.deep)}
        return given


def text_config(model: Model) -> Any:  # noqa: ANN401  # transformers.PreTrainedConfig
    """The configuration of the language model inside."""
    return model.config.get_text_config(decoder=True)


def head(model: Model) -> Callable[[torch.Tensor], torch.Tensor]:
    """From the decoder's output to logits."""
    layer: Callable[[torch.Tensor], torch.Tensor] = model.get_output_embeddings()
    cap = getattr(text_config(model), "final_logit_softcapping", None)
    if cap is None:
        return layer
    return lambda hidden: torch.tanh(layer(hidden) / cap) * cap


def logits(model: Model, *, keep: torch.Tensor | None, **inputs: Any) -> torch.Tensor:  # noqa: ANN401  # the decoder's
    """Logits (N, K, vocabulary) of the row's tokens `keep`, (K,), or of each row's last where it is `None`."""
    hidden = model.get_decoder()(**inputs).last_hidden_state
    return head(model)(hidden[:, -1:] if keep is None else hidden[:, keep])
