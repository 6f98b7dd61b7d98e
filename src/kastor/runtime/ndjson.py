"""Lines of a byte stream that end with a newline and nothing else, as those of NDJSON and of server-sent events do.

What splits text into lines (`str.splitlines`, httpx's `iter_lines`) also splits at U+2028, U+0085, form feeds and more,
which JSON may hold as they are.
"""

from collections.abc import Iterable, Iterator


def split_newlines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    r"""The lines that `pieces` make together, without their ends; the last one may lack its newline.

    >>> list(split_newlines([b"a\n", b"b", "\u2028c\r\n\nd".encode()]))
    [b'a', b'b\xe2\x80\xa8c', b'', b'd']
    """
    begun: list[bytes] = []  # parts of a line whose end has not come yet
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for part in ended:
            begun.append(part)
            yield b"".join(begun).removesuffix(b"\r")
            begun = []
        begun.append(rest)
    last = b"".join(begun)
    if last:
        yield last.removesuffix(b"\r")
