import ipaddress

import pytest

from kastor.domain.errors import InvalidArgument, KastorError, PermissionDenied, Unavailable
from kastor.security.url_guard import UrlGuard, resolve_addresses

NAMES = {
    "public.example": ["93.184.216.34", "2606:2800:220:1::1"],
    "private.example": ["10.1.2.3"],
    "half.example": ["93.184.216.34", "127.0.0.1"],
    "mapped.example": ["::ffff:192.168.0.1"],
    "link.example": ["fe80::1%eth0"],
    "xn--bcher-kva.example": ["93.184.216.35"],
}


def resolve(host: str, port: int) -> list[str]:
    if host not in NAMES:
        raise OSError("no such host")
    return NAMES[host]


def guard(*allowed: str) -> UrlGuard:
    return UrlGuard(allowed, resolve=resolve)


def test_a_public_url_leads_to_the_addresses_that_were_judged() -> None:
    target = guard().target("HTTPS://Public.Example.:8443/a/b.mp4?x=1#part")
    assert [str(address) for address in target.addresses] == NAMES["public.example"]
    assert [target.url(address) for address in target.addresses] == [
        "https://93.184.216.34:8443/a/b.mp4?x=1",
        "https://[2606:2800:220:1::1]:8443/a/b.mp4?x=1",
    ]
    assert (target.host, target.host_header) == ("public.example", "public.example:8443")
    assert guard().target("http://bücher.example").host_header == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",  # noqa: S104
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[fe80::1]",
        "[fc00::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a00:1]",
        "[::ffff:0:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "[fe80::1%25eth0]",
        "private.example",
        "half.example",
        "mapped.example",
        "link.example",
    ],
)
def test_what_is_not_on_the_public_internet_is_refused(host: str) -> None:
    with pytest.raises((PermissionDenied, InvalidArgument)):
        guard().target(f"http://{host}/x")


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "127.0.0.1.", "1.2.3.4.5", "256.1.1.1"]
)
def test_addresses_in_disguise_are_refused_before_any_resolver_sees_them(host: str) -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was resolved")

    with pytest.raises((InvalidArgument, PermissionDenied)):
        UrlGuard(resolve=never).target(f"http://{host}/x")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://public.example/x",
        "gopher://public.example/x",
        "//public.example/x",
        "public.example/x",
        "http://",
        "http:///x",
        "http://user:secret@public.example/x",
        "http://public.example@127.0.0.1/",
        "http://127.0.0.1\\@public.example/",
        "http://public.example\t/x",
        "http://public.example/a b",
        "http://public.example/\r\nHost: evil",
        "http://public.example:99999/",
        "http://public.example:x/",
        "http://[::1/",
        "http://pub lic.example/",
        "http://-public.example/",
        "http://" + "a" * 64 + ".example/",
        "http://public.example/" + "a" * 9000,
    ],
)
def test_urls_that_two_readers_could_read_differently_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        guard().target(url)
    assert "secret" not in caught.value.message


REGISTRY = {  # the first and last addresses of every block that IANA's registries do not call globally reachable
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.0.0/29", "192.0.0.8/32", "192.0.0.170/32", "192.0.0.171/32", "192.0.2.0/24", "192.88.99.0/24",
    "192.88.99.2/32", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
    "255.255.255.255/32", "224.0.0.0/4", "::1/128", "::/128", "::ffff:0:0/104", "64:ff9b:1::/48", "100::/64",
    "100:0:0:1::/64", "2001::/23", "2001::/32", "2001:2::/48", "2001:10::/28", "2001:db8::/32", "2002::/16",
    "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "4000::/3", "e000::/4",
    "64:ff9b::/104", "64:ff9b::a00:0/104", "64:ff9b::c0a8:0/112", "64:ff9b::7f00:0/104", "64:ff9b::a9fe:0/112",
}  # fmt: skip


@pytest.mark.parametrize("network", sorted(REGISTRY))
def test_no_block_of_ianas_special_registries_is_public(network: str) -> None:
    block = ipaddress.ip_network(network)
    for address in (block[0], block[-1], block[block.num_addresses // 2]):
        shown = f"[{address}]" if address.version == 6 else str(address)
        with pytest.raises(PermissionDenied):
            guard().target(f"http://{shown}/x")


@pytest.mark.parametrize(
    "host",
    [
        "1.1.1.1",
        "192.88.98.255",
        "192.88.100.0",
        "198.17.255.255",
        "[2606:4700::1]",
        "[3ffe:ffff::1]",
        "[64:ff9b::101:101]",
    ],
)
def test_the_neighbours_of_special_blocks_are_public(host: str) -> None:
    assert len(guard().target(f"http://{host}/x").addresses) == 1


def test_a_refusal_does_not_tell_where_a_name_leads() -> None:
    for name in ("private.example", "half.example", "mapped.example", "link.example"):
        with pytest.raises(PermissionDenied) as caught:
            guard().target(f"http://{name}/x")
        assert name in caught.value.message
        assert not any(inside in caught.value.message for inside in ("10.1.2", "127.0", "192.168", "fe80", "eth0"))


def test_a_host_without_address_may_have_one_later() -> None:
    with pytest.raises(Unavailable, match="gone.example"):
        guard().target("http://gone.example/")


def test_an_operator_may_allow_networks_and_names() -> None:
    assert guard("10.0.0.0/8").target("http://private.example/").host == "private.example"
    assert guard("private.example").target("http://private.example/").host == "private.example"
    assert guard("127.0.0.1").target("http://127.0.0.1:8080/").port == 8080
    assert guard("192.168.0.0/16").target("http://mapped.example/").host == "mapped.example"
    assert guard("::1").target("http://[::1]:8080/").host_header == "[::1]:8080"
    for url in ("http://10.1.2.3/", "http://half.example/"):
        with pytest.raises(PermissionDenied):
            guard("private.example", "192.168.0.0/16").target(url)


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "http://x", "*", "", "2130706433"])
def test_an_exception_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(InvalidArgument, match="can"):
        UrlGuard([entry])


def test_redirects_are_urls_to_be_judged_anew() -> None:
    assert guard().redirect("http://public.example/a/b", "../c") == "http://public.example/c"
    assert guard().redirect("http://public.example/a", "//127.0.0.1/x") == "http://127.0.0.1/x"
    for location in ("", "http://[::1"):
        with pytest.raises(KastorError):
            guard().redirect("http://public.example/", location)


def test_the_system_resolver_gives_each_address_once() -> None:
    found = resolve_addresses("localhost", 80)
    assert len(found) == len(set(found))
    assert all(ipaddress.ip_address(address).is_loopback for address in found)
