"""Values of users in messages: short, on one line, and quoted, whatever they are."""

MAX_CHARS = 100


def excerpt(value: object, most: int = MAX_CHARS) -> str:
    """The value as a message shows it: quoted, and with its middle left out where it is long.

    >>> excerpt("clips/film.mp4"), excerpt("data:image/png;base64," + 1000 * "A", most=30)
    ("'clips/film.mp4'", "'data:image/png;base6…AAAAAAAAA' (1,022 characters)")
    """
    if not isinstance(value, str | int | float):
        return type(value).__name__
    if not isinstance(value, str) or len(value) <= most:
        return repr(value)
    tail = (most - 1) // 3
    return f"{value[: most - 1 - tail] + '…' + value[-tail:]!r} ({len(value):,} characters)"


def shortened(text: str, most: int) -> str:
    """The beginning of the text, where it is longer than `most` characters.

    >>> shortened("clips", 5), shortened("clips/film.mp4", 5)
    ('clips', 'clips…')
    """
    return text if len(text) <= most else text[:most] + "…"
