"""Who this server is over TLS: a given certificate, or one made here under an authority of this data folder.

Knows no gRPC and no settings. The folder holds `ca.pem`, which callers are told to trust, and its key, so that a server
certificate can be renewed without telling them anew. Needs the extra `grpc`.
"""

import ipaddress
import os
import secrets
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from kastor.domain.errors import FailedPrecondition

AUTHORITY_VALID = timedelta(days=3650)
SERVER_VALID = timedelta(days=397)  # the most that platforms' verifiers take
RENEWED_BEFORE_END = timedelta(days=30)
CLOCKS_DIFFER_BY = timedelta(days=1)
ALWAYS_NAMED = ("localhost", "127.0.0.1", "::1")
LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A server's key and certificates, PEM."""

    key: bytes
    chain: bytes  # the server's certificate, then its issuers
    authority: Path | None = None  # the file that callers are to trust; None if theirs knows the issuer


def load_identity(certificate: Path, key: Path) -> TlsIdentity:
    """The operator's own.

    Raises:
        FailedPrecondition: a file cannot be read, or they do not belong together.

    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
        return TlsIdentity(key.read_bytes(), certificate.read_bytes())
    except ssl.SSLError as error:
        raise FailedPrecondition(
            f"{certificate} and {key} are no certificate and its key, both PEM and without a password: "
            f"{error.reason or error}."
        ) from error
    except OSError as error:
        raise FailedPrecondition(f"Cannot read {certificate} or {key}: {error.strerror}.") from error


def ensure_own_identity(folder: Path, hosts: Iterable[str], *, now: datetime) -> TlsIdentity:
    """The identity of this folder, for these names and addresses beside this machine's own; made or renewed if need be.

    Raises:
        FailedPrecondition: the folder cannot be used, or a host is no name.

    """
    names = tuple(dict.fromkeys((*ALWAYS_NAMED, *hosts)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=LOCK_TIMEOUT_S):
            authority = _authority(folder, now)
            return _server(folder, authority, names, now)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError; ValueError: a file that is no PEM, a bad name
        raise FailedPrecondition(f"No certificate for {', '.join(names)} can be kept in {folder}: {error}.") from error


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def ends_soon(self, now: datetime) -> bool:
        return self.certificate.not_valid_after_utc - now < RENEWED_BEFORE_END

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def _authority(folder: Path, now: datetime) -> _Pair:
    found = _read(folder / "ca.pem", folder / "ca-key.pem")
    if found is not None and found.certificate.not_valid_after_utc - now > SERVER_VALID:
        return found
    key = ec.generate_private_key(ec.SECP256R1())
    said = f"Kastor authority {secrets.token_hex(8)}"  # two of one name in a file of roots would hide each other
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, said)])
    certificate = (
        _begun(name, name, key, now, AUTHORITY_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _written(_Pair(certificate, key), folder / "ca.pem", folder / "ca-key.pem")


def _server(folder: Path, authority: _Pair, names: Sequence[str], now: datetime) -> TlsIdentity:
    files = folder / "server.pem", folder / "server-key.pem"
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    found = _read(*files)
    if found is None or found.ends_soon(now) or not _fits(found, authority, alternatives):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Kastor")])
        issuer = authority.certificate.subject
        certificate = (
            _begun(subject, issuer, key, now, SERVER_VALID)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(alternatives, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
            )
            .sign(authority.key, hashes.SHA256())
        )
        found = _written(_Pair(certificate, key), *files)
    return TlsIdentity(found.key_pem, found.certificate_pem, folder / "ca.pem")


def _fits(server: _Pair, authority: _Pair, alternatives: x509.SubjectAlternativeName) -> bool:
    """Whether the certificate is the authority's, and for these names."""
    try:
        server.certificate.verify_directly_issued_by(authority.certificate)
        named = server.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InvalidSignature, x509.ExtensionNotFound, ValueError, TypeError):
        return False
    return named == alternatives


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, valid: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER_BY)
        .not_valid_after(now - CLOCKS_DIFFER_BY + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)  # ValueError: not ASCII; write it as xn--…


def _read(certificate: Path, key: Path) -> _Pair | None:
    """The pair of these files; `None` if one is missing, as after a crash between the two."""
    if not (certificate.exists() and key.exists()):
        return None
    loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    pair = x509.load_pem_x509_certificate(certificate.read_bytes())
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or pair.public_key() != loaded.public_key():
        return None
    return _Pair(pair, loaded)


def _written(pair: _Pair, certificate: Path, key: Path) -> _Pair:
    _write(key, pair.key_pem, 0o600)
    _write(certificate, pair.certificate_pem, 0o644)
    return pair


def _write(path: Path, data: bytes, mode: int) -> None:
    """All at once, and never readable by more than `mode` says."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    temporary.replace(path)


def _no_password() -> str:
    """The answer of nobody: a server that starts unattended cannot ask."""
    raise OSError(0, "the key has a password; give one without")
