"""Bodies in two parts, however they are cut into pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kastor.api.http.multipart import MultipartRelatedParser, parse_boundary
from kastor.domain.errors import InvalidArgument


def body(content: bytes, end: bytes = b"\r\n", json: bytes = b'{"file": {}}', kind: bytes = b"text/plain") -> bytes:
    lines = [b"--b", b"Content-Type: application/json", b"", json, b"--b", b"Content-Type: " + kind, b"", content]
    return end.join([*lines, b"--b--", b""])


def read(text: bytes, cuts: list[int] | None = None) -> tuple[list[tuple[bytes, str]], bytes]:
    said: list[tuple[bytes, str]] = []
    given: list[bytes] = []
    parts = MultipartRelatedParser("b", lambda json, kind: said.append((json, kind)), given.append)
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts or [])})
    for begin, end in zip(edges, edges[1:], strict=False):
        parts.feed(text[begin:end])
    parts.end()
    return said, b"".join(given)


@settings(max_examples=200, deadline=None)
@given(
    content=st.lists(st.sampled_from([b"\r\n", b"\n", b"--b", b"-", b"\r", b"x", b"--c--"])).map(b"".join),
    end=st.sampled_from([b"\r\n", b"\n"]),
    cuts=st.lists(st.integers(0, 10**6), max_size=40),
)
def test_the_bytes_come_out_as_they_went_in(content: bytes, end: bytes, cuts: list[int]) -> None:
    if (end + b"--b") in end + content:
        return  # a client chooses a boundary that the content does not hold
    assert read(body(content, end), cuts) == ([(b'{"file": {}}', "text/plain")], content)


def test_every_way_to_cut_a_body_in_two_gives_the_same() -> None:
    text = body(b"hello\r\n--")
    for cut in range(len(text)):
        assert read(text, [cut])[1] == b"hello\r\n--"


def test_a_part_without_headers_and_a_preamble_are_allowed() -> None:
    assert read(b"hello\r\n--b\r\n\r\n{}\r\n--b\r\n\r\nbytes\r\n--b--") == ([(b"{}", "")], b"bytes")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no boundary",
        b"x" * 100_000,
        b"--b\r\n\r\n{}",
        b"--b\r\n\r\n{}\r\n--b--\r\n",
        b"--b\r\n\r\n{}\r\n--b\r\n\r\ncut",
        b"--b\r\n\r\n" + b" " * 100_000,
        b"--b\r\n\r\n{}\r\n--b\r\n" + b"x" * 10_000,
        b"--bb\r\n\r\n{}\r\n--b\r\n\r\nx\r\n--b--",
        b"--b\r\n\r\n{}\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--b--",
    ],
)
def test_what_has_no_two_parts_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read(text)


@pytest.mark.parametrize("said", ["", "application/json", "multipart/related", "multipart/related; boundary="])
def test_a_content_type_without_boundary_is_refused(said: str) -> None:
    with pytest.raises(InvalidArgument, match="multipart/related"):
        parse_boundary(said)


def test_a_boundary_may_be_quoted() -> None:
    assert parse_boundary('multipart/related; boundary="===1=="') == "===1=="
