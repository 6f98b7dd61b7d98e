"""A minimal OpenID provider on a loopback port, with its own keys."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


@dataclass
class Issuer:
    """A provider with its published keys; counts how often it was asked for them."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    discovery: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    status: int = 200
    slow_s: float = 0.0

    def publish(self, *pairs: tuple[str, Any]) -> None:
        """These keys, by their ids, and no others."""
        self.keys = [{**public_jwk(key), "kid": kid, "use": "sig"} for kid, key in pairs]

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a good token says; a change to `None` leaves the claim out."""
        now = time.time()
        good = {"iss": self.url, "aud": "kastor", "sub": "1", "email": "Ada@example.org", "email_verified": True}
        said = good | {"iat": now, "nbf": now, "exp": now + 300} | changes
        return {name: value for name, value in said.items() if value is not None}

    def token(self, key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", **changes: Any) -> str:
        """A token signed with `key`."""
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(self.claims(**changes), key, algorithm=algorithm, headers=headers)

    def answer(self, path: str) -> dict[str, Any] | None:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.discovery
        if path == "/keys":
            self.asked += 1
            time.sleep(self.slow_s)
            return {"keys": self.keys}
        return None


def public_jwk(key: Any) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    kind: Any = next((kind for of, kind in kinds.items() if isinstance(key, of)), OKPAlgorithm)
    return dict(kind.to_jwk(key.public_key(), as_dict=True))


@contextmanager
def serving(issuer: Issuer) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = issuer.answer(self.path)
            self.send_response(issuer.status if found is not None else 404)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = issuer.url or f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield
    http.shutdown()
    thread.join()
    http.server_close()
