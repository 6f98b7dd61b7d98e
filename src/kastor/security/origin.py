"""Addresses: which are this machine's own, and which pages may speak to a server that asks nobody for a key."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether `host`, without a port, can only be this machine.

    >>> [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST")]
    [True, True, True, True, True, True]
    >>> [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.2", "localhost.evil.example", "127.1", "")]
    [False, False, False, False, False, False]
    """
    name = host.lower().removeprefix("[").removesuffix("]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def names_loopback(host: str) -> bool:
    """Whether the header Host names this machine by an address or as localhost.

    A browser's page that was pointed here by its own name (DNS rebinding) names itself.

    >>> names_loopback("127.0.0.1:8080"), names_loopback("localhost"), names_loopback("[::1]:8080")
    (True, True, True)
    >>> [names_loopback(host) for host in ("evil.example:8080", "", "u@localhost", "[::1", "localhost:x")]
    [False, False, False, False, False]
    """
    try:
        parsed = urlsplit(f"//{host}")
        name, _ = parsed.hostname, parsed.port
    except ValueError:
        return False
    return name is not None and parsed.netloc == host and "@" not in host and is_loopback(name)


def is_secure_url(url: str) -> bool:
    """Whether nobody on the way can change what is read there: https, or http of this machine.

    >>> (is_secure_url("https://accounts.example"), is_secure_url("http://127.0.0.1:9000"),
    ...  is_secure_url("http://accounts.example"))
    (True, True, False)
    """
    try:
        parsed = urlsplit(url)
    except ValueError:
        return False
    name = parsed.hostname or ""
    return bool(name) and (parsed.scheme == "https" or (parsed.scheme == "http" and is_loopback(name)))


def is_trusted_origin(origin: str, host: str) -> bool:
    """Whether the page at `origin` (the header Origin) belongs to this server, reached as `host` (the header Host).

    Only addresses and localhost are trusted: a name may be anybody's that points it here (DNS rebinding).

    >>> (is_trusted_origin("http://127.0.0.1:8080", "127.0.0.1:8080"),
    ...  is_trusted_origin("http://localhost:3000", "localhost:8080"))
    (True, True)
    >>> (is_trusted_origin("https://evil.example", "127.0.0.1:8080"),
    ...  is_trusted_origin("http://evil.example", "evil.example"))
    (False, False)
    >>> is_trusted_origin("null", "localhost:8080"), is_trusted_origin("http://[::1", "[::1]:8080")
    (False, False)
    """
    try:
        page, asked = urlsplit(origin).hostname, urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return page is not None and page == asked and is_loopback(page)
