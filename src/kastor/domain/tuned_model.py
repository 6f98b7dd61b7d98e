"""The tuned model: a base plus what a job learnt. Its state is its job's, seen from the model's side."""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from kastor.domain.errors import InvalidArgument
from kastor.domain.request_limits import Limits

ID_PATTERN = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
MAX_ID_CHARS = 40
ID_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
"""Without letters that are taken for one another, and without vowels, so that no words come out."""


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A tuned model as stored. Sampling values are defaults for generation; `None` means the base model's."""

    id: str
    job_id: str
    base_model: str  # the id or alias that the user named: what a dialect gives back
    owner: str  # e-mail of the principal that made it
    created_at: datetime
    updated_at: datetime
    display_name: str = ""
    description: str = ""
    temperature: float | None = None  # [0, 1]
    top_p: float | None = None  # (0, 1]
    top_k: int | None = None  # >= 1
    source: str | None = None  # id of the tuned model that it was tuned on


def validated_model_id(model_id: str, limits: Limits) -> str:
    """The id, if it may be one.

    Raises:
        InvalidArgument: it breaks the published pattern or is too long.

    """
    if len(model_id) > limits.max_id_chars:
        raise InvalidArgument.of("model_id", f"{len(model_id)} characters, at most {limits.max_id_chars} are allowed")
    if not ID_PATTERN.fullmatch(model_id):
        raise InvalidArgument.of(
            "model_id",
            f"{model_id!r} is not an id; use lower-case letters, digits and hyphens, a letter first and no hyphen last",
        )
    return model_id


def random_model_id(num_chars: int = 12) -> str:
    """Random letters and digits, 12 as Google's operations have them."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(num_chars))


def generated_model_id(display_name: str, random_part: str) -> str:
    """As many words of the display name as fit into an id, and a random part, joined by hyphens.

    >>> generated_model_id("Number generator MODEL!", "7kq2wz")
    'number-generator-model-7kq2wz'
    >>> generated_model_id("", "7kq2wz"), generated_model_id("42 things", "q2w7kz")
    ('model-7kq2wz', 'm-42-things-q2w7kz')
    >>> generated_model_id("Sentiment of product reviews, second attempt", "7kq2wz")
    'sentiment-of-product-reviews-7kq2wz'
    """
    slug = "-".join(re.findall(r"[a-z0-9]+", display_name.lower())) or "model"
    slug = slug if slug[0].isalpha() else f"m-{slug}"
    room = MAX_ID_CHARS - len(random_part) - 1
    if len(slug) > room:
        words, _, _ = slug[: room + 1].rpartition("-")
        slug = (words or slug[:room]).rstrip("-")
    return f"{slug}-{random_part}"
