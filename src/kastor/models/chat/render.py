"""Content -> token ids and which of them are supervised. Training and serving both come through here.

Every turn is tokenised in pieces that never depend on what follows: the family's control strings with control tokens
recognised, the caller's text with control tokens taken as plain text. So the tokens of a served prompt are a prefix of
the tokens trained on *by construction*, the mask needs no search, and no text can smuggle in a control token.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kastor.domain.content import Example, Media, Prompt, SupervisedTurns
from kastor.domain.errors import FailedPrecondition, InvalidArgument
from kastor.domain.job import Rendering
from kastor.domain.vision import NO_LAYOUTS, Grid, MediaLayouts, TokenCount, VisionSpec
from kastor.models.chat.families import Family, rendering_of
from kastor.models.chat.template import ChatTemplate, Piece
from kastor.models.chat.token_count import CachedTokenCounter
from kastor.models.chat.tokenizer import load_tokenizers
from kastor.models.chat.tokenizer_files import tokenizer_file

LONG_TEXT_CHARS = 4096
"""Longer texts are tokenised with the interpreter's lock released: a million characters take three seconds, in which no
other thread would run. The result is the same."""
MAX_COMPOSED_CHARS = 4
"""Characters that a normaliser may make one of."""


@dataclass(frozen=True, slots=True)
class PictureSpan:
    """Where in the token ids a picture's own embeddings go."""

    media: Media
    index: int  # of the medium's pictures
    start: int
    num_tokens: int
    key: str = ""  # of the medium's stored features (`models.vision`), once they are looked up
    offset: int = 0  # of the picture's tokens, the first that stands here: where it is written tile by tile
    columns: int = 0  # of the tokens' grid; 0 where their places in it do not matter


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """An example as tokens; both lists have the same length."""

    token_ids: list[int]
    supervised: list[bool]  # True where the token is learnt: answers and the tokens that end them
    pictures: tuple[PictureSpan, ...] = ()
    on_a_grid: bool = False  # the tokens of pictures have places of their own (`positions`)

    @property
    def positions(self) -> NDArray[np.int64] | None:
        """Temporal, vertical and horizontal positions (3, T); `None` where they count up from 0."""
        return grid_positions(len(self.token_ids), self.pictures) if self.on_a_grid and self.pictures else None

    @property
    def num_supervised(self) -> int:
        """Tokens that carry a loss."""
        return sum(self.supervised)

    def keyed(self, keys: Mapping[Media, str]) -> "RenderedExample":
        """The same with the key of its features at each picture."""
        pictures = tuple(replace(picture, key=keys[picture.media]) for picture in self.pictures)
        return replace(self, pictures=pictures) if pictures else self


@dataclass(frozen=True, slots=True)
class _Placeholders:
    """The tokens that one picture takes."""

    media: Media
    index: int
    num_tokens: int
    offset: int
    columns: int


_Piece = list[int] | str | _Placeholders
"""Control tokens, a caller's text, or a picture."""


class Renderer:
    """Writes turns as one family's models expect them."""

    def __init__(
        self, tokenizer: Tokenizer, plain: Tokenizer, family: Family, supervise: SupervisedTurns = SupervisedTurns.ALL
    ) -> None:
        self.tokenizer = tokenizer  # recognises control tokens
        self._plain = plain  # takes control tokens for ordinary text
        self._family = family
        self._supervise = supervise
        self.closing_id = self._single(family.closing)
        self._turns = ChatTemplate(family, lru_cache(self._control))
        vision = family.vision
        self._before = self._control(vision.before) if vision else []
        self._after = self._control(vision.after) if vision else []
        self._placeholder_id = self._single(vision.placeholder) if vision else -1
        self._on_a_grid = vision is not None and vision.on_a_grid

    @classmethod
    def open(
        cls,
        folder: Path,
        family: Family,
        supervise: SupervisedTurns = SupervisedTurns.ALL,
        rendering: Rendering = Rendering.PUBLISHED,
    ) -> "Renderer":
        """The renderer for the base model in `folder`, by this rendering.

        `supervise` says which turns its examples teach.

        Raises:
            FailedPrecondition: tokenizer.json is missing, broken, or of another family.

        """
        file = tokenizer_file(folder, rendering)
        try:
            recognising, plain = load_tokenizers(file.read_text("utf-8"), family)
        except Exception as error:  # tokenizers raises bare Exception; this is its home module
            raise FailedPrecondition(f"Cannot read the tokenizer {file}: {error}") from error
        return cls(recognising, plain, rendering_of(family, rendering), supervise)

    @property
    def vision(self) -> VisionSpec | None:
        """How the family sees, if it does."""
        return self._family.vision

    def prompt(self, prompt: Prompt, views: MediaLayouts = NO_LAYOUTS) -> list[int]:
        """Token ids that end with the opening of the model's turn. `views` has each of its media.

        Raises:
            InvalidArgument: it holds what this family's models cannot read.

        """
        return self._ids(self._expanded(self._turns.prompt(prompt), views))[0]

    def prompt_with_pictures(self, prompt: Prompt, views: MediaLayouts) -> RenderedExample:
        """The same with the places of its pictures; nothing is supervised.

        Raises:
            InvalidArgument: it holds what this family's models cannot read.

        """
        ids, pictures = self._ids(self._expanded(self._turns.prompt(prompt), views))
        return RenderedExample(ids, [False] * len(ids), pictures, self._on_a_grid)

    def example(self, example: Example, views: MediaLayouts = NO_LAYOUTS) -> RenderedExample:
        """Each answer after what is served for it, with the token that ends it; answers alone are supervised.

        Raises:
            InvalidArgument: it holds what this family's models cannot read.

        """
        token_ids: list[int] = []
        supervised: list[bool] = []
        pictures: tuple[PictureSpan, ...] = ()
        for learnt, pieces in self._turns.example(example, self._supervise):
            ids, seen = self._ids(self._expanded(pieces, views))
            pictures += tuple(replace(picture, start=picture.start + len(token_ids)) for picture in seen)
            token_ids += ids
            supervised += [learnt] * len(ids)
        return RenderedExample(token_ids, supervised, pictures, self._on_a_grid)

    def counts(self, examples: Sequence[Example], views: Sequence[MediaLayouts] = ()) -> list[TokenCount]:
        """What `example` would give for each, all their texts counted in one go; `views` is empty or one for each.

        Raises:
            InvalidArgument: one holds what this family's models cannot read.

        """
        held: list[tuple[list[_Piece], list[_Piece]]] = []  # given and learnt of each example
        for index, example in enumerate(examples):
            both: tuple[list[_Piece], list[_Piece]] = ([], [])
            for learnt, pieces in self._turns.example(example, self._supervise):
                both[learnt].extend(self._expanded(pieces, views[index] if views else NO_LAYOUTS))
            held.append(both)
        texts = [piece for both in held for pieces in both for piece in pieces if isinstance(piece, str)]
        counted = iter(self._word_counts.counts(texts))
        sizes = [sum([next(counted) if isinstance(p, str) else _size(p) for p in pieces]) for b in held for pieces in b]
        return [TokenCount(given + learnt, learnt) for given, learnt in zip(sizes[::2], sizes[1::2], strict=True)]

    @cached_property
    def _word_counts(self) -> CachedTokenCounter:
        return CachedTokenCounter(self._plain)

    def text(self, text: str) -> list[int]:
        """Tokens of a caller's text; control tokens in it are plain text."""
        if len(text) < LONG_TEXT_CHARS:
            return list(self._plain.encode(text, add_special_tokens=False).ids)
        return list(self._plain.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def check_length(self, prompt: Prompt, max_tokens: int) -> None:
        """Nothing, if the prompt's text may be `max_tokens` or less; tells without making tokens of it.

        Raises:
            InvalidArgument: it cannot, were all of it written in the longest token there is.

        """
        most, found = max_tokens * self._max_token_chars, prompt.num_chars
        if found > most:
            said = (
                f"The input has {found:,} characters; the {max_tokens:,} tokens that the model reads hold {most:,} at"
            )
            raise InvalidArgument.of("contents", f"{said} most.")

    @cached_property
    def _max_token_chars(self) -> int:
        """How many characters of a text one token may stand for."""
        longest = max(map(len, self._plain.get_vocab()), default=1)
        return longest if self._plain.normalizer is None else MAX_COMPOSED_CHARS * longest

    def _expanded(self, pieces: Iterable[Piece], views: MediaLayouts) -> Iterator[_Piece]:
        """The pieces with those of their media."""
        for piece in pieces:
            if isinstance(piece, Media):
                yield from self._media_pieces(piece, views)
            else:
                yield piece

    def _media_pieces(self, media: Media, views: MediaLayouts) -> Iterator[_Piece]:
        vision, view = self._family.vision, views.get(media)
        if vision is None:
            raise InvalidArgument(f"This base model reads text only, not {media.name}.")
        if view is None:
            raise InvalidArgument(f"{media.name} stands where this base model sees no media: in its own turn.")
        for index, grid in enumerate(view.grids):
            if view.moments_s:
                yield vision.moment(view.moments_s[index])
            yield from self._picture_pieces(media, index, grid, vision)
            yield self._after

    def _picture_pieces(self, media: Media, index: int, grid: Grid, vision: VisionSpec) -> Iterator[_Piece]:
        if grid.tiles == (1, 1):
            yield self._before
            yield _Placeholders(media, index, grid.num_tokens, 0, grid.columns)
            return
        rows, columns = grid.tiles
        size = grid.num_tokens // (rows * columns)
        for number in range(rows * columns):
            yield self._tile_mark(number // columns + 1, number % columns + 1, vision)
            yield _Placeholders(media, index, size, number * size, grid.columns // columns)

    def _tile_mark(self, row: int, column: int, vision: VisionSpec) -> list[int]:
        return self._control(vision.tile_mark(row, column))

    def _ids(self, pieces: Iterable[_Piece]) -> tuple[list[int], tuple[PictureSpan, ...]]:
        ids: list[int] = []
        pictures = []
        for piece in pieces:
            if isinstance(piece, str):
                ids += self.text(piece)
            elif isinstance(piece, _Placeholders):
                place = PictureSpan(piece.media, piece.index, len(ids), piece.num_tokens)
                pictures.append(replace(place, offset=piece.offset, columns=piece.columns))
                ids += [self._placeholder_id] * piece.num_tokens
            else:
                ids += piece
        return ids, tuple(pictures)

    def _single(self, text: str) -> int:
        ids = self._control(text)
        if len(ids) != 1:
            raise FailedPrecondition(
                f"The tokenizer splits {text!r} into {len(ids)} tokens: it is not one of the family "
                f"{self._family.name!r}. Name the right family in the catalog."
            )
        return ids[0]

    def _control(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def grid_positions(num_tokens: int, pictures: Sequence[PictureSpan]) -> NDArray[np.int64]:
    """Temporal, vertical and horizontal positions (3, T) of M-RoPE (Qwen2-VL, arXiv:2409.12191).

    Text counts up in all three. The tokens of a picture share the temporal one, and have their row and column in the
    others; what follows goes on after the largest.

    >>> grid_positions(6, [PictureSpan(Media("image/png"), 0, start=1, num_tokens=4, columns=2)]).tolist()
    [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]]
    """
    found = np.empty((3, num_tokens), np.int64)
    at = position = 0
    for picture in pictures:
        position = _count_up(found, at, picture.start, position)
        at = picture.start + picture.num_tokens
        rows, columns = np.divmod(np.arange(picture.num_tokens), picture.columns)
        found[:, picture.start : at] = position + np.stack([np.zeros_like(rows), rows, columns])
        position += int(max(rows[-1], columns.max())) + 1
    _count_up(found, at, num_tokens, position)
    return found


def _count_up(positions_3T: NDArray[np.int64], begin: int, end: int, position: int) -> int:
    """Fill [begin, end) with the numbers from `position` on; the one after them."""
    positions_3T[:, begin:end] = np.arange(position, position + end - begin)
    return position + end - begin


def _size(piece: list[int] | _Placeholders) -> int:
    return piece.num_tokens if isinstance(piece, _Placeholders) else len(piece)
