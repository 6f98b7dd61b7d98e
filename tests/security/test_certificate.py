"""A certificate made here: trusted through its authority, for the names asked for, renewed in time, its key kept."""

import ipaddress
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from kastor.domain.errors import FailedPrecondition
from kastor.security.tls import TlsIdentity, ensure_own_identity, load_identity

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def certificate(identity: TlsIdentity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.chain)


def authority(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())


def test_it_is_the_authoritys_and_names_this_machine_and_the_hosts(tmp_path: Path) -> None:
    made = ensure_own_identity(tmp_path, ["kastor.example", "10.1.2.3"], now=NOW)
    assert made.authority == tmp_path / "ca.pem"
    certificate(made).verify_directly_issued_by(authority(tmp_path))
    named = certificate(made).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert named.get_values_for_type(x509.DNSName) == ["localhost", "kastor.example"]
    addresses = [ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", "10.1.2.3")]
    assert named.get_values_for_type(x509.IPAddress) == addresses


def test_keys_are_for_the_owner_alone_and_the_authority_is_for_all(tmp_path: Path) -> None:
    ensure_own_identity(tmp_path, [], now=NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.pem")}
    assert (modes["ca-key.pem"], modes["server-key.pem"]) == (0o600, 0o600)
    assert modes["ca.pem"] & 0o444 == 0o444


def test_it_is_kept_as_long_as_it_is_good(tmp_path: Path) -> None:
    first = ensure_own_identity(tmp_path, ["a.example"], now=NOW)
    assert ensure_own_identity(tmp_path, ["a.example"], now=NOW + timedelta(days=300)) == first


@pytest.mark.parametrize(("hosts", "days"), [(["a.example"], 380), (["b.example"], 1)])
def test_near_its_end_or_for_other_names_it_is_made_anew_under_the_same_authority(
    tmp_path: Path, hosts: list[str], days: int
) -> None:
    first = ensure_own_identity(tmp_path, ["a.example"], now=NOW)
    trusted = authority(tmp_path)
    later = ensure_own_identity(tmp_path, hosts, now=NOW + timedelta(days=days))
    assert later.chain != first.chain
    certificate(later).verify_directly_issued_by(trusted)


def test_an_authority_that_would_end_before_its_certificates_is_made_anew(tmp_path: Path) -> None:
    ensure_own_identity(tmp_path, [], now=NOW)
    trusted = authority(tmp_path)
    later = ensure_own_identity(tmp_path, [], now=NOW + timedelta(days=3400))
    assert authority(tmp_path) != trusted
    certificate(later).verify_directly_issued_by(authority(tmp_path))


def test_a_crash_between_key_and_certificate_is_mended(tmp_path: Path) -> None:
    ensure_own_identity(tmp_path, [], now=NOW)
    (tmp_path / "server-key.pem").write_bytes((tmp_path / "ca-key.pem").read_bytes())
    made = ensure_own_identity(tmp_path, [], now=NOW)
    (tmp_path / "k.pem").write_bytes(made.key)
    (tmp_path / "c.pem").write_bytes(made.chain)
    assert load_identity(tmp_path / "c.pem", tmp_path / "k.pem") == TlsIdentity(made.key, made.chain)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    ensure_own_identity(tmp_path, [], now=NOW)
    with pytest.raises(FailedPrecondition, match="no certificate and its key"):
        load_identity(tmp_path / "server.pem", tmp_path / "ca-key.pem")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="Cannot read .*none.pem"):
        load_identity(tmp_path / "none.pem", tmp_path / "key.pem")


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(FailedPrecondition, match="can be kept in"):
        ensure_own_identity(tmp_path / "tls", [], now=NOW)
