"""Notes about unused fields inside the parts of a row, which are mostly misspelt or misplaced."""

import difflib
from collections.abc import Iterator, Set

from kastor.dataset.formats.issues import MAX_NAME_CHARS, Issue
from kastor.dataset.formats.parse import Fields, camel_case, list_value
from kastor.domain.excerpt import excerpt

INNER_FIELDS = {
    "fileData": {"mimeType", "fileUri", "displayName"},
    "inlineData": {"mimeType", "data", "displayName"},
    "videoMetadata": {"startOffset", "endOffset", "fps"},
    "mediaResolution": {"level", "numTokens"},
    "functionCall": {"name", "args", "id"},
    "functionResponse": {"name", "response", "id"},
}
BESIDE = "put it into the part, beside fileData or inlineData"
BELONGS = {
    "videoMetadata": f"videoMetadata: {BESIDE}",
    "mediaResolution": f"mediaResolution: {BESIDE}, or for all media in generationConfig",
    "startOffset": "startOffset belongs in videoMetadata",
    "endOffset": "endOffset belongs in videoMetadata",
    "fps": "fps belongs in videoMetadata",
}


def unused_inner_fields(number: int, value: Fields, unit: str) -> Iterator[Issue]:
    """An issue for each unused field in the parts of a row with `contents`."""
    turns = [(f"contents[{i}]", turn) for i, turn in enumerate(list_value(value.get("contents")))]
    system = value.get("systemInstruction", value.get("system_instruction"))
    for path, turn in [*turns, ("systemInstruction", system)]:
        for i, part in enumerate(list_value(turn.get("parts")) if isinstance(turn, dict) else []):
            for name, held in part.items() if isinstance(part, dict) else ():
                field = camel_case(name)
                known = INNER_FIELDS.get(field)
                if known is not None and isinstance(held, dict):
                    yield from _unknown(number, f"{path}.parts[{i}].{field}", held, known, unit)


def place_hint(names: Set[str]) -> str:
    """A hint about the right place of commonly misplaced fields."""
    return "; ".join(BELONGS[name] for name in sorted(map(camel_case, names)) if name in BELONGS)


def short_name(name: str) -> str:
    """The name of a field, shortened for a message."""
    return name if len(name) <= MAX_NAME_CHARS else excerpt(name, MAX_NAME_CHARS)


def _unknown(number: int, path: str, held: Fields, known: Set[str], unit: str) -> Iterator[Issue]:
    for name in sorted({camel_case(name) for name in held} - known):
        alike = difflib.get_close_matches(name.lower(), [one.lower() for one in known], n=1)
        meant = next((one for one in known if alike and one.lower() == alike[0]), None)
        hint = f"did you mean {meant}?" if meant else place_hint({name})
        message = f"{short_name(name)}: not used in tuning"
        yield Issue(number, path, "unknown_field", message, hint, unit)
