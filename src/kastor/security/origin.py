"""Whether a browser's page may speak to a server that asks nobody for a key."""

import ipaddress
from urllib.parse import urlsplit


def trusted(origin: str, host: str) -> bool:
    """Whether the page at `origin` (the header Origin) belongs to this server, reached as `host` (the header Host).

    Only addresses and localhost are trusted: a name may be anybody's that points it here (DNS rebinding).

    >>> trusted("http://127.0.0.1:8080", "127.0.0.1:8080"), trusted("http://localhost:3000", "localhost:8080")
    (True, True)
    >>> trusted("https://evil.example", "127.0.0.1:8080"), trusted("http://evil.example", "evil.example")
    (False, False)
    >>> trusted("null", "localhost:8080"), trusted("http://[::1", "[::1]:8080")
    (False, False)
    """
    try:
        page, asked = urlsplit(origin).hostname, urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return page is not None and page == asked and (page == "localhost" or _is_address(page))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
