"""Which addresses may be fetched for a caller: http and https, at addresses of the public internet.

A name is resolved once, every address it has is judged, and the connection is made to one of those judged, so that a
name cannot mean something else a moment later (DNS rebinding). Fetching itself is `media.fetch`'s business.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import structlog

from kastor.domain.errors import InvalidArgument, PermissionDenied, Unavailable

MAX_REDIRECTS = 5
MAX_URL_CHARS = 8_192
PORTS = {"http": 80, "https": 443}
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""All that IANA has given out of IPv6 for the internet (RFC 4291, 2.4); what lies outside is special or unassigned."""
SPECIAL_IPV4 = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # carrier's NAT
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local, and the metadata of clouds
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocols; the two addresses in it that are reachable mean the nearest NAT
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # relays of 6to4, given up by RFC 7526
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and the broadcast
)
SPECIAL_IPV6 = (  # in 2000::/3
    "2001::/23",  # protocols: Teredo, benchmarks, ORCHID, and anycast addresses that mean the nearest device
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4, given up by RFC 7526
    "3fff::/20",  # documentation
)
"""What is not "globally reachable" by IANA's registries of special-purpose addresses (iana-ipv4-special-registry and
iana-ipv6-special-registry, as of October 2025), with multicast. `ipaddress.is_global` follows them years later."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
IPV4_COMPATIBLE = ipaddress.ip_network("::/96")
IPV4_TRANSLATED = ipaddress.ip_network("::ffff:0:0:0/96")
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SPECIAL: tuple[Network, ...] = tuple(map(ipaddress.ip_network, (*SPECIAL_IPV4, *SPECIAL_IPV6)))
Resolve = Callable[[str, int], Sequence[str]]
"""Host and port -> its addresses as text.

Raises:
    OSError: it has none.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one request goes: to one of `addresses`, the first that answers, for what `host` is asked for."""

    scheme: str
    host: str
    port: int
    addresses: tuple[Address, ...]
    path: str  # with the query

    def url(self, address: Address) -> str:
        """The request's URL with a judged address in place of the host."""
        shown = f"[{address}]" if address.version == 6 else str(address)
        return f"{self.scheme}://{shown}:{self.port}{self.path}"

    @property
    def host_header(self) -> str:
        """The header Host."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if self.port == PORTS[self.scheme] else f"{shown}:{self.port}"


class UrlGuard:
    """Judges URLs; `allowed` names exceptions: networks ("10.0.0.0/8", "127.0.0.1") and host names.

    Raises:
        InvalidArgument: an exception is neither.

    """

    def __init__(self, allowed: Sequence[str] = (), *, resolve: Resolve | None = None) -> None:
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for entry in allowed:
            self._allow(entry)
        self._resolve = resolve or resolve_addresses

    def _allow(self, entry: str) -> None:
        try:
            self._networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            host = entry.lower().rstrip(".")
            if not _is_name(host) or _looks_numeric(host):
                raise InvalidArgument(
                    f"{entry!r} is neither a network such as 10.0.0.0/8 nor a host name; it cannot be allowed."
                ) from None
            self._hosts.add(host)

    def target(self, url: str) -> Target:
        """Where a request for `url` may go.

        Raises:
            InvalidArgument: not an http(s) URL, or one written to be misread.
            PermissionDenied: it leads to an address that is not public and not allowed.
            Unavailable: its host has no address.

        """
        scheme, host, port, path = _parts(url)
        literal = _literal(host)
        addresses = self._addresses(host, port) if literal is None else [literal]
        for address in addresses:
            if host not in self._hosts and not self._may(address):
                # the address of a name inside is for the operator, not for who asks
                structlog.get_logger().info("media_address_refused", host=host, address=str(address))
                raise PermissionDenied(
                    f"{host} is not on the public internet; an operator may allow it in media_addresses.",
                    reason="ADDRESS_NOT_ALLOWED",
                )
        return Target(scheme, host, port, tuple(addresses), path)

    def redirect(self, url: str, location: str) -> str:
        """The URL that an answer of `url` sends us to; judge it by `target`, too.

        Raises:
            InvalidArgument: it is no URL.

        """
        if not location:
            raise InvalidArgument(f"{url} redirects to nowhere.")
        try:
            return urljoin(url, location)
        except ValueError as error:
            raise InvalidArgument(f"{url} redirects to {location!r}, which is no URL.") from error

    def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            texts = self._resolve(host, port)
            found: list[Address] = [ipaddress.ip_address(text) for text in texts]
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"The host {host} cannot be resolved: {error}.") from error
        except ValueError as error:  # an address with a zone, of a link of ours
            raise PermissionDenied(f"{host} leads to a local link.", reason="ADDRESS_NOT_ALLOWED") from error
        if not found:
            raise Unavailable(f"The host {host} has no address.")
        return found

    def _may(self, address: Address) -> bool:
        if any(address in network for network in self._networks if network.version == address.version):
            return True
        inner = embedded_ipv4(address)
        if inner is not None:
            return self._may(inner)
        return is_public(address)


def resolve_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host by the system's resolver, each once, in its order.

    Raises:
        OSError: it has none.

    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Whether the address belongs to the public internet, and to one machine of it.

    >>> [is_public(ipaddress.ip_address(a)) for a in ("93.184.216.34", "10.0.0.1", "169.254.169.254", "::1")]
    [True, False, False, False]
    """
    if address.version == 6 and address not in GLOBAL_UNICAST:
        return False
    return not any(address in network for network in SPECIAL if network.version == address.version)


def embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for, where some network or host would translate it.

    6to4 and Teredo hold one, too; those networks are special as a whole.

    >>> embedded_ipv4(ipaddress.ip_address("::ffff:127.0.0.1")), embedded_ipv4(ipaddress.ip_address("64:ff9b::a00:1"))
    (IPv4Address('127.0.0.1'), IPv4Address('10.0.0.1'))
    >>> embedded_ipv4(ipaddress.ip_address("::1")) is None
    True
    """
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped:
        return address.ipv4_mapped
    low = int(address) & 0xFFFFFFFF
    if address in NAT64 or address in IPV4_TRANSLATED or (address in IPV4_COMPATIBLE and low > 0xFFFF):
        return ipaddress.IPv4Address(low)
    return None


def _parts(url: str) -> tuple[str, str, int, str]:
    """(scheme, host, port, path and query) of a URL that every reader reads alike."""
    if len(url) > MAX_URL_CHARS or any(ord(c) <= 32 or ord(c) == 127 or c == "\\" for c in url):
        raise InvalidArgument(
            f"{url[:200]!r} is no URL that can be fetched: it is too long, or has blanks or \\ in it."
        )
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError as error:
        raise InvalidArgument(f"{url!r} is no URL: {error}.") from error
    scheme = split.scheme.lower()
    if scheme not in PORTS:
        raise InvalidArgument(f"{url!r} cannot be fetched: only http and https are.")
    if "@" in split.netloc:
        raise InvalidArgument(f"{scheme}://…@{split.hostname} carries a user name; such URLs are not fetched.")
    host = _ascii_host((split.hostname or "").rstrip("."), url)
    path = (split.path or "/") + (f"?{split.query}" if split.query else "")
    return scheme, host, PORTS[scheme] if port is None else port, path


def _ascii_host(host: str, url: str) -> str:
    if _literal(host) is not None:
        return host
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise InvalidArgument(f"{url!r} has no valid host name.") from error
    name = name.lower()
    if not _is_name(name):
        raise InvalidArgument(f"{url!r} has no valid host name.")
    if _looks_numeric(name):
        # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 for some resolvers and names for others
        raise InvalidArgument(f"{url!r} writes an address in an unusual way; write it as a.b.c.d.")
    return name


def _is_name(host: str) -> bool:
    return 0 < len(host) <= 253 and all(LABEL.fullmatch(label) for label in host.split("."))


def _looks_numeric(host: str) -> bool:
    """Whether the last label is a number, as the URL standard has it.

    >>> [_looks_numeric(h) for h in ("2130706433", "0177.0.0.1", "0x7f.0x1", "127.1", "a1.example")]
    [True, True, True, True, False]
    """
    last = host.rsplit(".", 1)[-1]
    return re.fullmatch(r"\d+|0x[0-9a-f]*", last) is not None


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
