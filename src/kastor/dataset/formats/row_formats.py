"""Parses a JSON value into a row, in every supported format. `validation` decides which examples may be used.

Google's own forms come first (`parse`) and cost nothing more for the others. What can be read in two ways is refused
by name, and an unused field is noted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kastor.dataset.formats.chat_formats import is_messages, parse_chat_row, to_google_tools
from kastor.dataset.formats.issues import LINE, Issue, ParsedRow, RowError
from kastor.dataset.formats.parse import (
    COLUMNS_HINT,
    PAIR_FIELDS,
    SHAPES,
    TURN_FIELDS,
    Fields,
    camel_case,
    parse_conversation,
    parse_google_example,
    parse_text_pair,
    text_value,
)
from kastor.dataset.formats.tolerant_json import JsonValue
from kastor.dataset.formats.unused_fields import place_hint, short_name, unused_inner_fields
from kastor.domain.content import Content, Example, Media, Text

INPUTS = ("text_input", "input_text", "prompt", "question", "query", "problem", "instruction", "input")
OUTPUTS = ("output", "output_text", "completion", "response", "answer", "solution", "target")
SYSTEMS = ("system", "system_prompt", "system_instruction")
ADDED = ("input", "context")  # follow an instruction after a blank line
MESSAGES = ("messages", "conversations", "conversation")
OPENAI, SHAREGPT = "OpenAI chat", "ShareGPT"
EXAMPLE_FIELDS = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig"}
NOTHING_TO_NOTE = {"contents", "systemInstruction", "tools"}
KEYS_HINT = "choose the two fields with --input-key and --output-key"
PREFERENCES = {"chosen", "rejected", "preferred_output", "non_preferred_output"}
PLACEHOLDERS = ("<image>", "<video>")
"""LLaVA's placeholders for media."""
MEDIA_FIELDS = {"image", "images", "video", "videos", "audio", "audios"}

Keys = tuple[str | None, str | None]
"""The input and output fields, if the caller named them."""
NO_KEYS: Keys = (None, None)


@dataclass(frozen=True, slots=True)
class FormattedRow:
    """An example, the name of its format, and the fields that were not used."""

    example: Example
    format: str
    unused: Sequence[str] = ()


OnFormat = Callable[[str], None]
"""Called with the format's name for each row that is not in one of Google's formats."""


def parse_formatted_row(
    number: int,
    value: JsonValue,
    keys: Keys = NO_KEYS,
    num_bytes: int = 0,
    *,
    unit: str = LINE,
    on_format: OnFormat = lambda name: None,
) -> ParsedRow | Issue:
    """The row with this number and line length as an example, or the issue that makes it invalid."""
    try:
        if type(value) is dict and keys == NO_KEYS:
            if "contents" in value:
                example = parse_conversation(value)
                return ParsedRow(number, example, tuple(_notes(number, value, unit)), num_bytes)
            if value.keys() == PAIR_FIELDS:
                return ParsedRow(number, parse_google_example(value), (), num_bytes)
        parsed = _parsed(value, keys)
    except RowError as fault:
        return fault.issue(number, unit)
    if parsed.format:
        on_format(parsed.format)
    notes = (*_unused(number, parsed.unused, unit), *_placeholders(number, parsed, unit))
    return ParsedRow(number, parsed.example, notes, num_bytes)


def _parsed(value: JsonValue, keys: Keys) -> FormattedRow:
    if parse_text_pair(value) is not None:
        return FormattedRow(parse_google_example(value), "")
    if is_messages(value):
        example, unused = parse_chat_row(value, "messages", system=None, tools="")
        return FormattedRow(example, f"{OPENAI}, messages alone", [f"messages[].{name}" for name in unused])
    if not isinstance(value, dict):
        return FormattedRow(parse_google_example(value), "")
    fields = _Fields(value)
    if keys == NO_KEYS:
        _check_purpose(fields)
        name = fields.first(MESSAGES)
        if name is not None:
            return _chat(fields, name)
    return _pair(fields, keys)


def is_canonical_row(value: Fields) -> bool:
    """Whether the object has the fields of an example, rather than containing a list of examples."""
    plain = {plain_name(name) for name in value}
    known = {"contents", *MESSAGES, *PREFERENCES}
    if _is_request(value.get("request")):
        return True
    inputs = [value[name] for name in value if plain_name(name) in INPUTS]
    return bool(plain & known) or any(isinstance(held, str) or is_messages(held) for held in inputs)


class _Fields:
    """The fields of a row by their names in lower snake_case, without surrounding whitespace."""

    def __init__(self, value: Fields) -> None:
        self.names: dict[str, str] = {}
        self._held: dict[str, JsonValue] = {}
        for name, held in value.items():
            plain = plain_name(name)
            if plain in self.names:
                fault = f"holds {self.names[plain]!r} and {name!r}, one field in two spellings"
                raise RowError("", "duplicate_key", fault, "keep one of them")
            self.names[plain] = name
            self._held[plain] = held

    def first(self, names: Sequence[str]) -> str | None:
        """The first of these fields that is present and not null."""
        return next(iter(self.among(names)), None)

    def among(self, names: Sequence[str]) -> list[str]:
        """Those of these fields that are present and not null."""
        return [name for name in names if self._held.get(name) is not None]

    def get(self, name: str) -> JsonValue:
        """The field's value; null if it is missing."""
        return self._held.get(name)

    def text(self, name: str) -> str:
        """The field's text."""
        return text_value(self._held[name], self.names[name], COLUMNS_HINT)

    def named(self, name: str, option: str) -> str:
        """The field that a caller named, by its exact name or another spelling of it."""
        exact = next((plain for plain, given in self.names.items() if given == name), None)
        plain = exact if exact is not None else plain_name(name)
        if self._held.get(plain) is None:
            raise RowError("", "shape", f"has no field {name!r}, which {option} names; it has {self.listed()}")
        return plain

    def unused(self, used: set[str]) -> list[str]:
        """Non-empty fields other than these."""
        return [
            given
            for plain, given in self.names.items()
            if plain not in used and self._held[plain] not in (None, "", [], {})
        ]

    def listed(self) -> str:
        """The names of all fields, for a message."""
        return ", ".join(map(repr, self.names.values())) or "nothing"


def plain_name(name: str) -> str:
    """A field's name in lower snake_case, without surrounding whitespace.

    >>> plain_name(" Text Input "), plain_name("textInput"), plain_name("ID"), plain_name("System-Prompt")
    ('text_input', 'text_input', 'id', 'system_prompt')
    """
    stripped = name.strip().replace(" ", "_").replace("-", "_")
    if stripped.isupper() or stripped.islower():
        return stripped.lower()
    spaced = "".join(
        f"_{char}" if char.isupper() and place and stripped[place - 1].islower() else char
        for place, char in enumerate(stripped)
    )
    return spaced.lower()


# ---- conversations


def _chat(fields: _Fields, name: str) -> FormattedRow:
    """A row with a list of messages."""
    others = [other for other in fields.among(MESSAGES) if other != name]
    inputs, outputs = fields.among(INPUTS), fields.among(OUTPUTS)
    if others or (inputs and outputs):
        beside = others or [inputs[0], outputs[0]]
        raise _ambiguous(f"holds {name!r} beside {' and '.join(map(repr, beside))}", "keep one of them")
    media = fields.among(sorted(MEDIA_FIELDS))
    if media:
        message = f"{media[0]!r} beside the conversation is not used; put media into the messages, as image_url parts"
        raise RowError(fields.names[media[0]], "media_beside", message, "or write such rows in Google's format")
    tools, unused_tools = to_google_tools(fields.get("tools"), fields.get("functions"))
    systems = [*SYSTEMS, "context"]  # the last is chat-bison's name
    system = fields.first(systems)
    system_text = None if system is None else fields.text(system)
    example, unused = parse_chat_row(fields.get(name), fields.names[name], system=system_text, tools=tools)
    used = {name, "tools", "functions", *([system] if system else [])}
    listed = [f"{fields.names[name]}[].{one}" for one in unused]
    first = fields.get(name)
    human = isinstance(first, list) and isinstance(first[0], dict) and "from" in first[0]
    return FormattedRow(example, SHAREGPT if human else OPENAI, [*fields.unused(used), *unused_tools, *listed])


# ---- pairs


def _pair(fields: _Fields, keys: Keys) -> FormattedRow:
    """A row with an input field and an output field."""
    output = fields.named(keys[1], "--output-key") if keys[1] else _one(fields, OUTPUTS, "outputs")
    if keys[0]:
        given = fields.named(keys[0], "--input-key")
        return _prompted(fields, [given], output, f"pairs ({fields.names[given]}, {fields.names[output]})")
    if fields.get("instruction") is not None:
        return _instructed(fields, output)
    given = _one(fields, [name for name in INPUTS if name != output], "inputs")
    context = fields.get("context")
    if context not in (None, ""):
        raise _ambiguous(f"holds {'context'!r} beside {given!r}: their order in the prompt is not known", KEYS_HINT)
    native = {given, output} == PAIR_FIELDS
    if is_messages(fields.get(given)) and is_messages(fields.get(output)):
        return _prompt_messages(fields, given, output)
    name = "" if native else f"pairs ({fields.names[given]}, {fields.names[output]})"
    return _prompted(fields, [given], output, name)


def _instructed(fields: _Fields, output: str) -> FormattedRow:
    """A row in Alpaca's or Dolly's format: an instruction with an optional input."""
    others = [name for name in fields.among(INPUTS) if name not in ("instruction", "input")]
    added = [name for name in fields.among(ADDED) if fields.get(name) != ""]
    if others or len(added) > 1:
        beside = others or added
        raise _ambiguous(f"holds 'instruction' beside {' and '.join(map(repr, beside))}", KEYS_HINT)
    dolly = output == "response" and fields.get("input") is None
    held = [fields.names[name] for name in ("instruction", *fields.among(ADDED), output)]
    return _prompted(fields, ["instruction", *added], output, f"{'Dolly' if dolly else 'Alpaca'} ({', '.join(held)})")


def _prompted(fields: _Fields, given: Sequence[str], output: str, name: str) -> FormattedRow:
    """The example whose prompt consists of these fields, separated by blank lines."""
    texts = [fields.text(one) for one in given]
    prompt = "\n\n".join([texts[0], *(text for text in texts[1:] if text.strip())])
    example = Example.pair(prompt, fields.text(output))
    system, history = fields.first(SYSTEMS), fields.get("history")
    earlier = tuple(_earlier(history)) if history else ()
    if earlier or system:
        system_parts = (Text(fields.text(system)),) if system and fields.get(system) != "" else None
        example = Example((*earlier, *example.contents), system_parts)
    used = {*given, output, *ADDED[: len(given) - 1], *([system] if system else []), *(["history"] if earlier else [])}
    return FormattedRow(example, name, fields.unused(used))


def _earlier(history: JsonValue) -> Iterator[Content]:
    """The turns of Alpaca's `history`: pairs of earlier questions and answers."""
    for index, turn in enumerate(history if isinstance(history, list) else [history]):
        pair = parse_text_pair(turn)
        if pair is None:
            raise RowError(f"history[{index}]", "type", "expected a pair of texts: [question, answer]")
        yield from Example.pair(*pair).contents


def _prompt_messages(fields: _Fields, given: str, output: str) -> FormattedRow:
    """A prompt and a completion as messages; the model's turns in the prompt are context and not learnt."""
    prompt = [_unlearnt(message) for message in _list(fields.get(given))]
    tools, unused_tools = to_google_tools(fields.get("tools"), None)
    messages = [*prompt, *_list(fields.get(output))]
    example, unused = parse_chat_row(messages, fields.names[given], system=None, tools=tools)
    listed = [*fields.unused({given, output, "tools"}), *unused_tools, *(f"messages[].{name}" for name in unused)]
    return FormattedRow(example, f"{OPENAI} ({fields.names[given]}, {fields.names[output]})", listed)


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _unlearnt(message: JsonValue) -> JsonValue:
    if isinstance(message, dict) and message.get("role") in ("assistant", "model"):
        return message | {"weight": 0}
    return message


def _one(fields: _Fields, names: Sequence[str], what: str) -> str:
    """The only one of these fields that the row has.

    Raises:
        RowError: it has none of them, or several.

    """
    held = fields.among(names)
    if not held:
        empty = [fields.names[name] for name in names if name in fields.names]
        if empty:
            raise RowError(empty[0], "type", "null, expected text")
        hint = f"an example is {SHAPES}; name other fields with --input-key and --output-key"
        raise RowError("", "shape", f"the object holds {fields.listed()}", hint)
    if len(held) > 1:
        raise _ambiguous(f"holds {' and '.join(repr(fields.names[name]) for name in held)}, several {what}", KEYS_HINT)
    return held[0]


def _is_request(value: JsonValue) -> bool:
    return isinstance(value, dict) and "contents" in value


def _ambiguous(message: str, hint: str) -> RowError:
    return RowError("", "ambiguous", message, hint)


# ---- unsupported rows, and unused fields


def _check_purpose(fields: _Fields) -> None:
    """Check that the row is meant for supervised tuning: not for preference tuning, not a request, not a lone text."""
    held = sorted(PREFERENCES & set(fields.among(sorted(PREFERENCES))))
    judged = isinstance(fields.get("label"), bool) and fields.first((*OUTPUTS, *MESSAGES)) is not None
    if held or judged:
        name = fields.names["label" if judged and not held else held[0]]
        message = f"holds {name!r}, as rows for preference tuning do, which is not supported yet"
        hint = "to learn the good answers alone, write rows of prompt and completion"
        raise RowError("", "preference_row", message, hint)
    if _is_request(fields.get("request")):
        fault = "a request, as in files of batch predictions, not an example"
        hint = "write its contents at the top of the row, with the model's answer as the last turn"
        raise RowError(fields.names["request"], "shape", fault, hint)
    if fields.among(["text"]) and len(fields.names) == 1:
        fault = "holds 'text' alone, which does not tell the prompt from the answer"
        raise RowError("", "text_alone", fault, "write rows of prompt and completion")


def _notes(number: int, value: Fields, unit: str) -> Iterator[Issue]:
    """Notes about the unused fields of a valid row with `contents`.

    Raises:
        RowError: the row holds another example beside them.

    """
    turns = value["contents"]
    extra = {
        f"contents[].{name}"
        for turn in (turns if isinstance(turns, list) else [turns])
        if isinstance(turn, dict)
        for name in turn.keys() - TURN_FIELDS
    }
    if not value.keys() <= NOTHING_TO_NOTE:
        plain = {plain_name(name) for name in value}
        if plain & set(MESSAGES) or (plain & set(INPUTS) and plain & set(OUTPUTS)):
            beside = sorted(plain & {*MESSAGES, *INPUTS, *OUTPUTS})
            raise _ambiguous(f"holds 'contents' beside {' and '.join(map(repr, beside))}", "keep one of them")
        extra |= {name for name in value if camel_case(name) not in EXAMPLE_FIELDS}
    yield from _unused(number, sorted(extra), unit)
    yield from unused_inner_fields(number, value, unit)
    config = value.get("generationConfig", value.get("generation_config"))
    others = sorted({camel_case(name) for name in config} - {"mediaResolution"}) if isinstance(config, dict) else []
    if others:
        message = f"{', '.join(map(short_name, others))}: tuning uses mediaResolution only"
        yield Issue(number, "generationConfig", "no_effect", message, unit=unit)


def _placeholders(number: int, parsed: FormattedRow, unit: str) -> Iterator[Issue]:
    """A note about other tools' media placeholders in a conversation that has no media."""
    if not parsed.format.startswith((OPENAI, SHAREGPT)):
        return
    parts = [part for turn in parsed.example.contents for part in turn.parts]
    held = sorted({mark for part in parts if isinstance(part, Text) for mark in PLACEHOLDERS if mark in part.text})
    if held and not any(isinstance(part, Media) for part in parts):
        message = f"{' and '.join(held)} in a text is learnt as text: the row has no media"
        hint = "replace the placeholder by an image_url or video_url part in its message"
        yield Issue(number, "", "media_placeholder", message, hint, unit)


def _unused(number: int, names: Sequence[str], unit: str) -> Iterator[Issue]:
    if names:
        message = f"{', '.join(map(short_name, names))}: not used in tuning"
        hint = place_hint({name.rpartition(".")[2] for name in names})
        yield Issue(number, "", "unknown_field", message, hint, unit)
