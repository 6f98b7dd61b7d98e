"""By which ways an installation lets callers in; and when it does not start, as nobody or everybody could come in."""

from collections.abc import Collection
from dataclasses import dataclass

from kastor.domain.errors import FailedPrecondition, InvalidArgument
from kastor.security.origin import is_loopback, is_secure_url

ANY = "*"


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """What the operator set."""

    host: str
    no_auth: bool = False
    secrets: Collection[str] = ()  # keys in the settings
    issuer: str | None = None  # OpenID provider
    audience: str | None = None
    cors_origins: Collection[str] = ()

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InvalidArgument: two settings exclude one another, or one needs another.

        """
        if self.no_auth:
            self._check_open()
        if any(not secret for secret in self.secrets):
            raise InvalidArgument("api_keys holds an empty key, which nobody could send; give it a long random one.")
        if (self.issuer is None) != (self.audience is None):
            raise InvalidArgument("oidc_issuer and oidc_audience need one another: set both, or neither.")
        if self.issuer is not None and not is_secure_url(self.issuer):
            raise InvalidArgument(f"oidc_issuer is {self.issuer!r}; it has to be an https address.")
        for origin in self.cors_origins:
            if origin != ANY and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
                raise InvalidArgument(f"cors_origins holds {origin!r}; an origin looks like https://app.example:8443.")

    def _check_open(self) -> None:
        if not is_loopback(self.host):
            raise InvalidArgument(
                f"no_auth lets everybody in who reaches {self.host}. It works with --host 127.0.0.1 only; for others "
                "make keys: kastor keys create --email you@example.com"
            )
        if self.secrets or self.issuer is not None:
            set_too = "api_keys" if self.secrets else "oidc_issuer"
            raise InvalidArgument(f"no_auth lets everybody in, so {set_too} would have no effect; set one of the two.")
        if ANY in self.cors_origins:
            raise InvalidArgument(
                "cors_origins may be * only where callers need keys: leave no_auth out, or name them."
            )

    def check_entry(self, *, stored_key: bool, options: str = "") -> None:
        """Refuse to start when nobody could come in; `stored_key`: whether the database has one that does.

        `options` are what the command that makes a key needs besides.

        Raises:
            FailedPrecondition: there is no way in.

        """
        if not (self.no_auth or self.secrets or self.issuer is not None or stored_key):
            raise FailedPrecondition(
                f"Nobody could use this server: it has no keys. Make one: kastor keys create{options} --email "
                "you@example.com; or serve without keys to this machine only: kastor serve --no-auth"
            )

    def warnings(self) -> list[str]:
        """What the operator should know at the start, a sentence each."""
        said = []
        if self.no_auth:
            said.append("No key is asked for: every program on this machine may do everything (--no-auth).")
        if not is_loopback(self.host):
            said.append(
                f"Listening on {self.host} over plain HTTP: keys and data can be read on the way. Put a proxy with TLS "
                "in front, or listen on 127.0.0.1."
            )
        return said
