"""What attention and caches must know of a decoder's layers, read from its configuration; here alone.

Layers differ within a model: in the window they attend in, in the heads of their keys and values, and the last ones may
keep none and read those of an earlier layer.
"""

from dataclasses import dataclass
from typing import Any

from kastor.domain.vision import BidirectionalAttention

Window = int | None
"""A layer's tokens see so many back from their own place, itself counted; `None`: all before."""


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """The layers of one decoder."""

    heads: tuple[tuple[int, int], ...]  # of each layer that keeps keys and values: how many heads, how wide
    window: Window  # of the layers of the type "sliding_attention", if there are such
    both_ways: frozenset[Window] = frozenset()  # windows of the layers where pictures' tokens see one another both ways

    @classmethod
    def of(cls, config: Any, both_ways: BidirectionalAttention = BidirectionalAttention.NEVER) -> "LayerConfig":  # noqa: ANN401  # PreTrainedConfig
        """Those of a language model's configuration."""
        modes = getattr(config, "kv_sharing_modes", None) or [None] * config.num_hidden_layers
        keeping = [layer for layer, mode in zip(config.per_layer_config, modes, strict=True) if mode != "reuse"]
        return cls(tuple(_heads(layer) for layer in keeping), _window(config), bidirectional_windows(config, both_ways))


def bidirectional_windows(config: Any, both_ways: BidirectionalAttention) -> frozenset[Window]:  # noqa: ANN401  # as above
    """The windows of the layers in which a picture's tokens see those after them in it, too."""
    window = _window(config)
    if both_ways is BidirectionalAttention.ALL_LAYERS:
        return frozenset({None, window})
    if both_ways is BidirectionalAttention.AS_CONFIGURED and config.use_bidirectional_attention == "vision":
        return frozenset({window}) - {None}
    return frozenset()


def _window(config: Any) -> Window:  # noqa: ANN401  # as above
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return int(config.sliding_window) if slides else None


def _heads(layer: Any) -> tuple[int, int]:  # noqa: ANN401  # as above, with the values of one layer
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return int(layer.num_key_value_heads), int(width)
