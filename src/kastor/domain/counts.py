"""Numbers of things in messages."""


def counted(number: int, noun: str) -> str:
    """The number with its noun, in the plural where there is not one.

    >>> counted(1, "example"), counted(1200, "example"), counted(0, "row")
    ('1 example', '1,200 examples', '0 rows')
    """
    return f"{number:,} {noun if number == 1 else noun + 's'}"
