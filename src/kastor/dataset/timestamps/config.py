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
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson

from kastor.dataset.timestamps.time_formats import (
    HOUR,
    MICROSECOND,
    MILLISECOND,
    MINUTE,
    NANOSECOND,
    SECOND,
    TimeFormat,
    TimeUnit,
)
from kastor.domain.errors import InvalidArgument

MEANINGS = ("start", "end", "length", "point", "range")
PATTERN_FIELDS = {"name", "regex", "unit", "ignore"}
KEY_FIELDS = {"name", "means", "unit"}
_UNITS = {
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), HOUR),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), MINUTE),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), SECOND),
    **dict.fromkeys(("ms", "msec", "millis", "millisecond", "milliseconds"), MILLISECOND),
    **dict.fromkeys(("us", "micros", "microsecond", "microseconds"), MICROSECOND),
    **dict.fromkeys(("ns", "nanos", "nanosecond", "nanoseconds"), NANOSECOND),
}
_STARTS = frozenset(["start", "starts", "begin", "begins", "from", "onset", "t0"])
_ENDS = frozenset(["end", "ends", "stop", "stops", "until", "to", "t1"])
_LENGTHS = frozenset(["duration", "dur", "length"])
_PLURAL = frozenset(["times", "timestamps", "timecodes", "offsets"])
_POINTS = _PLURAL | {"time", "timestamp", "timecode", "ts", "t", "offset", "at"}
_RANGES = frozenset(
    [*("segment", "interval", "span", "range", "window"), *("segments", "intervals", "spans", "ranges", "windows")]
)
_FILLING = _POINTS | _RANGES | {"video", "clip", "event", "in", "of", "relevant"}
_OF_CUTS = frozenset(["t", "time", "timecode", "point", "mark"])  # tIn and tOut, in_point and out_point
_NOTATIONS = frozenset(["mm", "ss", "hh", "mmm"])  # Time (MM:SS)


@dataclass(frozen=True, slots=True)
class KeyMeaning:
    """What a value under a name is: start, end, length, point or range, in units of so many seconds.

    `stem` is the name without its unit: values of one stem in several units make one moment. `plural`: a list.
    """

    kind: str
    size: Fraction = SECOND
    stem: str = ""
    has_unit: bool = False
    plural: bool = False


@dataclass(frozen=True, slots=True)
class TimestampKeys:
    """JSON keys of the caller's own: what each means (start, end, length, point, range) and its unit."""

    meanings: Mapping[str, tuple[str, TimeUnit]] = field(default_factory=dict)

    def meaning(self, key: str) -> KeyMeaning | None:
        """What a value under this key is; `None` if its name is none of a time.

        >>> (TimestampKeys().meaning("startTimeMs").kind,
        ...  TimestampKeys().meaning("game_clock"), TimestampKeys().meaning("end_s").stem)
        ('start', None, 'end')
        """
        if key in self.meanings:
            return KeyMeaning(self.meanings[key][0], self.meanings[key][1].size, key, has_unit=True)
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower().replace("-", "_").replace(" ", "_").split("_")
        unit_size = _UNITS.get(words[-1])
        words = [word for word in (words[:-1] if unit_size else words) if word]
        kind = self._kind(set(words), has_unit=bool(unit_size)) if words else "point" if unit_size else None
        if kind is None:
            return None
        plural = words[-1:] != [] and words[-1] in _PLURAL
        return KeyMeaning(kind, unit_size or SECOND, "_".join(words), unit_size is not None, plural)

    def column(self, name: str) -> KeyMeaning | None:
        """What the values of a table's column are.

        >>> (TimestampKeys().column("Start time (ms)").size,
        ...  TimestampKeys().column("Time (MM:SS)").kind, TimestampKeys().column("Minutes"))
        (Fraction(1, 1000), 'point', None)
        """
        words = re.findall(r"\w+", name)
        meaning = self.meaning("_".join(word for word in words if word.lower() not in _NOTATIONS))
        return meaning if meaning is not None and meaning.stem else None

    @staticmethod
    def _kind(words: set[str], *, has_unit: bool) -> str | None:
        if words & _OF_CUTS and words - _OF_CUTS == {"out"}:
            return "end"
        if words & _OF_CUTS and words - _OF_CUTS == {"in"} and not has_unit:  # time_in_seconds is no start
            return "start"
        for kind, stems in (("start", _STARTS), ("end", _ENDS), ("length", _LENGTHS)):
            if words & stems and words - stems <= _FILLING:
                return kind
        if words & _POINTS and words <= _FILLING:
            return "point"
        return "range" if words & _RANGES and words <= _FILLING else None


@dataclass(frozen=True, slots=True)
class TimestampConfig:
    """How moments are written: the caller's patterns and keys beside the usual ones."""

    patterns: tuple[TimeFormat, ...] = ()
    keys: TimestampKeys = TimestampKeys()


def load_timestamp_config(path: Path) -> TimestampConfig:
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
    return TimestampConfig(patterns, TimestampKeys(dict(_key(path, one) for one in value.get("key", ()))))


def _pattern(path: Path, given: Mapping[str, Any]) -> TimeFormat:
    name = _known(path, given, PATTERN_FIELDS)
    try:
        regex = re.compile(str(given.get("regex", "")))
    except re.error as error:
        raise InvalidArgument(f"{path}: the regex of {name} is wrong: {error}.") from error
    ignored = bool(given.get("ignore", False))
    groups = set(regex.groupindex)
    if not ignored and groups != {"time"} and groups != {"start", "end"}:
        raise InvalidArgument(f"{path}: the regex of {name} needs a group named time, or start and end.")
    return TimeFormat(name, regex, _unit(path, given.get("unit", "clock")), ignored)


def _key(path: Path, given: Mapping[str, Any]) -> tuple[str, tuple[str, TimeUnit]]:
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


def _unit(path: Path, said: object) -> TimeUnit:
    if said not in set(TimeUnit):
        raise InvalidArgument(f"{path}: the unit {said!r} is not known; use clock, s or ms.")
    return TimeUnit(str(said))
