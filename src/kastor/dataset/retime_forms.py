r"""A caller's own forms of moments, from a TOML or JSON file.

[[pattern]]                      # tried before the usual forms
name = "brackets"
regex = 'T\[(?P<start>[0-9:]+)/(?P<end>[0-9:]+)\]'    # groups: time, or start and end
unit = "clock"                   # clock | s | ms
[[pattern]]
name = "bible"
regex = '[A-Z][a-z]+ [0-9]+:[0-9]+'
ignore = true                    # looks like a moment and is none
[[key]]                          # of JSON objects
name = "t_in"
means = "start"                  # start | end | length | point | range
unit = "ms"                      # s | ms
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kastor.dataset.timestamps import Pattern, Unit
from kastor.domain.errors import InvalidArgument

MEANINGS = ("start", "end", "length", "point", "range")
PATTERN_FIELDS = {"name", "regex", "unit", "ignore"}
KEY_FIELDS = {"name", "means", "unit"}
_UNITS = {
    **dict.fromkeys(("ms", "msec", "millis", "millisecond", "milliseconds"), Unit.MILLISECONDS),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Unit.SECONDS),
}
_STARTS = frozenset(["start", "starts", "begin", "begins", "from", "onset", "t0"])
_ENDS = frozenset(["end", "ends", "stop", "stops", "until", "to", "t1"])
_LENGTHS = frozenset(["duration", "dur", "length"])
_POINTS = frozenset(
    ["time", "times", "timestamp", "timestamps", "timecode", "timecodes", "ts", "t", "offset", "offsets"]
)
_RANGES = frozenset(["segment", "segments", "interval", "intervals", "span", "spans", "range", "ranges", "window"])
_FILLING = _POINTS | _RANGES | {"video", "clip", "event", "at", "in", "of"}


@dataclass(frozen=True, slots=True)
class Keys:
    """JSON keys of the caller's own: what each means (start, end, length, point, range) and its unit."""

    meanings: Mapping[str, tuple[str, Unit]] = field(default_factory=dict)

    def meaning(self, key: str) -> tuple[str, Unit] | None:
        """What a value under this key is.

        >>> Keys().meaning("startTimeMs"), Keys().meaning("frame"), Keys().meaning("end_s")
        (('start', <Unit.MILLISECONDS: 'ms'>), None, ('end', <Unit.SECONDS: 's'>))
        """
        if key in self.meanings:
            return self.meanings[key]
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower().replace("-", "_").replace(" ", "_").split("_")
        unit = _UNITS.get(words[-1])
        words = [word for word in (words[:-1] if unit else words) if word]
        rest = set(words)
        for name, stems in (("start", _STARTS), ("end", _ENDS), ("length", _LENGTHS)):
            if rest & stems and rest - stems <= _FILLING:
                return name, unit or Unit.SECONDS
        if (not words and unit) or (rest & _POINTS and rest <= _FILLING):
            return "point", unit or Unit.SECONDS
        return ("range", unit or Unit.SECONDS) if rest & _RANGES and rest <= _FILLING else None


@dataclass(frozen=True, slots=True)
class Forms:
    """How moments are written: the caller's patterns and keys beside the usual ones."""

    patterns: tuple[Pattern, ...] = ()
    keys: Keys = Keys()


def read_forms(path: Path) -> Forms:
    """The forms that the file names.

    Raises:
        InvalidArgument: it cannot be read, or names what is not known.

    """
    try:
        text = path.read_bytes()
        value: Any = orjson.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text.decode())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"Cannot read the patterns {path}: {error}") from error
    if not isinstance(value, dict) or value.keys() - {"pattern", "key"}:
        raise InvalidArgument(f"{path}: expected are [[pattern]] and [[key]] only.")
    patterns = tuple(_pattern(path, one) for one in value.get("pattern", ()))
    return Forms(patterns, Keys(dict(_key(path, one) for one in value.get("key", ()))))


def _pattern(path: Path, given: Mapping[str, Any]) -> Pattern:
    name = _known(path, given, PATTERN_FIELDS)
    try:
        regex = re.compile(str(given.get("regex", "")))
    except re.error as error:
        raise InvalidArgument(f"{path}: the regex of {name} is wrong: {error}.") from error
    ignored = bool(given.get("ignore", False))
    groups = set(regex.groupindex)
    if not ignored and groups != {"time"} and groups != {"start", "end"}:
        raise InvalidArgument(f"{path}: the regex of {name} needs a group named time, or start and end.")
    return Pattern(name, regex, _unit(path, given.get("unit", "clock")), ignored)


def _key(path: Path, given: Mapping[str, Any]) -> tuple[str, tuple[str, Unit]]:
    name = _known(path, given, KEY_FIELDS)
    means = str(given.get("means", "point"))
    if means not in MEANINGS:
        raise InvalidArgument(f"{path}: {name} means {means!r}; use one of {', '.join(MEANINGS)}.")
    return name, (means, _unit(path, given.get("unit", "s")))


def _known(path: Path, given: Mapping[str, Any], fields: set[str]) -> str:
    unknown = sorted(given.keys() - fields)
    if unknown or not given.get("name"):
        raise InvalidArgument(f"{path}: {', '.join(unknown) or 'no name'}; known are {', '.join(sorted(fields))}.")
    return str(given["name"])


def _unit(path: Path, said: object) -> Unit:
    if said not in set(Unit):
        raise InvalidArgument(f"{path}: the unit {said!r} is not known; use clock, s or ms.")
    return Unit(str(said))
