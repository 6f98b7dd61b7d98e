"""Content -> token ids and which of them are supervised. Training and serving both come through here.

Every turn is tokenised in pieces that never depend on what follows: the family's control strings with control tokens
recognised, the caller's text with control tokens taken as plain text. So the tokens of a served prompt are a prefix of
the tokens trained on *by construction*, the mask needs no search, and no text can smuggle in a control token.
"""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from kastor.domain.content import Content, Example, Media, Prompt, Role, Text, text_of
from kastor.domain.errors import FailedPrecondition, InvalidArgument
from kastor.models.families import Family


@dataclass(frozen=True, slots=True)
class Rendered:
    """An example as tokens; both lists have the same length."""

    token_ids: list[int]
    supervised: list[bool]  # True where the token is learnt: the last answer and the token that ends it

    @property
    def num_supervised(self) -> int:
        """Tokens that carry a loss."""
        return sum(self.supervised)


class Renderer:
    """Writes turns as one family's models expect them."""

    def __init__(self, tokenizer: Tokenizer, plain: Tokenizer, family: Family) -> None:
        self.tokenizer = tokenizer  # recognises control tokens
        self._plain = plain  # takes control tokens for ordinary text
        self._family = family
        self._opening = {role: self._control(text) for role, text in family.opening.items()}
        self._separator = self._control(family.separator)
        closing = self._control(family.closing)
        if len(closing) != 1:
            raise FailedPrecondition(
                f"The tokenizer splits {family.closing!r} into {len(closing)} tokens: it is not one of the family "
                f"{family.name!r}. Name the right family in the catalog."
            )
        self.closing_id = closing[0]

    @classmethod
    def open(cls, folder: Path, family: Family) -> "Renderer":
        """The renderer for the base model in `folder`.

        Raises:
            FailedPrecondition: tokenizer.json is missing, broken, or of another family.

        """
        file = folder / "tokenizer.json"
        try:
            text = file.read_text("utf-8")
            recognising, plain = Tokenizer.from_str(text), Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception; this is its home module
            raise FailedPrecondition(f"Cannot read the tokenizer {file}: {error}") from error
        plain.encode_special_tokens = True
        return cls(recognising, plain, family)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Token ids that end with the opening of the model's turn.

        Raises:
            InvalidArgument: it holds what this family's models cannot read.

        """
        _require_text(prompt)
        ids = self._system(prompt)
        for content in prompt.contents:
            ids += self._turn(content)
        return ids + self._opening["model"]

    def example(self, example: Example) -> Rendered:
        """The served prompt followed by the answer and the closing token, which alone are supervised."""
        before = self.prompt(example.prompt)
        answer = [*self.text(example.contents[-1].text), self.closing_id]
        return Rendered(before + answer, [False] * len(before) + [True] * len(answer))

    def text(self, text: str) -> list[int]:
        """Tokens of a caller's text; control tokens in it are plain text."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _system(self, prompt: Prompt) -> list[int]:
        said = self._family.default_system if prompt.system is None else text_of(prompt.system)
        return [] if said is None else self._closed(self._opening["system"] + self.text(said))

    def _turn(self, content: Content) -> list[int]:
        opening = self._opening["model" if content.role is Role.MODEL else "user"]
        return self._closed(opening + self.text(content.text))

    def _closed(self, ids: list[int]) -> list[int]:
        return [*ids, self.closing_id, *self._separator]

    def _control(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def _require_text(prompt: Prompt) -> None:
    for part in prompt.parts:
        if not isinstance(part, Text):
            what = part.name if isinstance(part, Media) else f"the function {part.name}"
            raise InvalidArgument(f"This base model reads text only, not {what}.")
    if prompt.tools:
        raise InvalidArgument("This base model cannot call functions; leave tools out.")
