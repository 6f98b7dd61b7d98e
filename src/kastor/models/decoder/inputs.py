"""The language model inside a base: from what stands in the places of a row, through its decoder, to logits.

Bases that see are whole models of transformers with the language model inside; those that only read are nothing else.
Training, serving and exports come through here, so that a picture's embeddings are put in their places in one way.

Shapes: T tokens of a row, V of them in pictures, W width of the language model, D layers with additions for pictures,
C what a picture's token is given: W, or W * (1 + D); L layers, P what each is given of a token besides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Model = Any  # transformers.PreTrainedModel, or peft's around it; their types are not checked


@dataclass(frozen=True, slots=True)
class DecoderInputs:
    """What the decoder is given for a row: embeddings, and what further layers are given or add."""

    embeddings_TW: torch.Tensor
    pictures_V: torch.Tensor  # places of pictures' tokens, ascending
    deep: tuple[torch.Tensor, ...] = ()  # of each of the first D layers what is added to its output there, (V, W)
    per_layer_TLP: torch.Tensor | None = None  # of a decoder whose layers know the tokens themselves

    @classmethod
    def of(
        cls, model: Model, token_ids_T: torch.Tensor, pictures_V: torch.Tensor, made_VC: torch.Tensor | None
    ) -> "DecoderInputs":
        """The tokens with what was made of pictures, if there are any, in their places; gradients flow through both."""
        embeddings_TW = model.get_input_embeddings()(token_ids_T)
        per_layer_TLP = _per_layer(model, token_ids_T, pictures_V)
        if made_VC is None:
            return cls(embeddings_TW, pictures_V, (), per_layer_TLP)
        first_VW, *deep = made_VC.to(embeddings_TW.dtype).split(embeddings_TW.shape[1], dim=1)
        return cls(embeddings_TW.index_copy(0, pictures_V, first_VW), pictures_V, tuple(deep), per_layer_TLP)

    @classmethod
    def joined(cls, parts: Sequence["DecoderInputs"]) -> "DecoderInputs":
        """Rows end to end."""
        begin, places = 0, []
        for part in parts:
            places.append(part.pictures_V + begin)
            begin += len(part.embeddings_TW)
        layers = zip(*[part.deep for part in parts if part.deep], strict=True)
        per_layer = [part.per_layer_TLP for part in parts if part.per_layer_TLP is not None]
        return cls(
            torch.cat([part.embeddings_TW for part in parts]),
            torch.cat(places),
            tuple(torch.cat(layer) for layer in layers),
            torch.cat(per_layer) if per_layer else None,
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """What the decoder is called with."""
        given: dict[str, Any] = {"inputs_embeds": self.embeddings_TW[None]}
        if self.deep:  # Qwen3-VL's deepstack
            mask_T = torch.zeros(len(self.embeddings_TW), dtype=torch.bool, device=self.embeddings_TW.device)
            given |= {"visual_pos_masks": mask_T.index_fill(0, self.pictures_V, True)[None]}
            given |= {"deepstack_visual_embeds": list(self.deep)}
        if self.per_layer_TLP is not None:
            given |= {"per_layer_inputs": self.per_layer_TLP[None]}
        return given


def _per_layer(model: Model, token_ids_T: torch.Tensor, pictures_V: torch.Tensor) -> torch.Tensor | None:
    """What the layers of Gemma 4's kind are given of each token besides; a picture's have what padding has."""
    config = text_config(model)
    if not getattr(config, "hidden_size_per_layer_input", 0):
        return None
    of_text_T = token_ids_T.index_fill(0, pictures_V, config.pad_token_id)
    given: torch.Tensor = model.get_decoder().get_per_layer_inputs(of_text_T[None])[0]
    return given


def text_config(model: Model) -> Any:  # noqa: ANN401  # transformers.PreTrainedConfig
    """The configuration of the language model inside."""
    return model.config.get_text_config(decoder=True)


def lm_head(model: Model) -> Callable[[torch.Tensor], torch.Tensor]:
    """From the decoder's output to logits."""
    layer: Callable[[torch.Tensor], torch.Tensor] = model.get_output_embeddings()
    cap = getattr(text_config(model), "final_logit_softcapping", None)
    if cap is None:
        return layer
    return lambda hidden: torch.tanh(layer(hidden) / cap) * cap


def logits(model: Model, *, keep: torch.Tensor | None, **inputs: Any) -> torch.Tensor:  # noqa: ANN401  # the decoder's
    """Logits (N, K, vocabulary) of the row's tokens `keep`, (K,), or of each row's last where it is `None`."""
    hidden = model.get_decoder()(**inputs).last_hidden_state
    return lm_head(model)(hidden[:, -1:] if keep is None else hidden[:, keep])
