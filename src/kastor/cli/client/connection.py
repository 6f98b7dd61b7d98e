"""The one way to a server: the one named, else the one that runs on this data folder, else a private one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kastor.cli.client.client import Client
from kastor.cli.client.ephemeral_server import EphemeralServer, deferred_interrupts
from kastor.cli.console.output import Output, program
from kastor.domain.errors import FailedPrecondition, KastorError
from kastor.runtime.server_record import read_server_record
from kastor.settings import Settings, load_settings

HEALTH_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """What the user said about the server: nothing, or where it is and the key to it."""

    server: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """A server to talk to. `check` raises when it is known to be gone for good."""

    client: Client
    private: bool
    check: Callable[[], None]

    def check_detachable(self) -> None:
        """Nothing, if the server goes on after this command.

        Raises:
            FailedPrecondition: it is private to the command.

        """
        if self.private:
            raise FailedPrecondition(
                f"--detach needs a server that stays. Start one first, in another terminal: {program()} serve --no-auth"
            )


@contextmanager
def connect(
    access: ServerAddress, out: Output, *, scheduler: bool = False, media_folder: Path | None = None
) -> Iterator[ServerConnection]:
    """A link to a server, for as long as the block lasts; a private server ends with it.

    `scheduler`: whether a private server shall train jobs; commands that only look do without. `media_folder` is one
    that a private server may read media from.
    """
    if access.server is not None:
        with Client(_with_scheme(access.server), access.api_key) as client:
            yield ServerConnection(client, private=False, check=_nothing)
        return
    settings = load_settings()
    running = running_server(settings)
    if running is not None:
        with Client(running, access.api_key or _own_key(settings)) as client:
            yield ServerConnection(client, private=False, check=_nothing)
        return
    if media_folder is not None:
        settings = settings.model_copy(update={"media_folders": [*settings.media_folders, media_folder]})
    with private_connection(settings, out, scheduler=scheduler) as link:
        yield link


@contextmanager
def private_connection(settings: Settings, out: Output, *, scheduler: bool) -> Iterator[ServerConnection]:
    """A link to a server started for this block."""
    server: EphemeralServer | None = None
    try:
        with deferred_interrupts():
            server = EphemeralServer(settings, scheduler=scheduler)
        with Client(server.wait_until_listening(), server.key) as client:
            yield ServerConnection(client, private=True, check=server.check)
    finally:
        if server is not None:
            server.stop()


def running_server(settings: Settings) -> str | None:
    """The URL of the server that runs on this data folder, if it is really that one which answers there."""
    announced = read_server_record(settings.data_dir)
    if announced is None:
        return None
    try:
        with Client(announced.url) as client:
            return announced.url if client.instance(HEALTH_TIMEOUT_S) == announced.instance else None
    except KastorError:
        return None


def _own_key(settings: Settings) -> str | None:
    """A key that our own server takes: it is on the same machine and reads the same settings."""
    first = next(iter(settings.api_keys.values()), None)
    return None if first is None else first.get_secret_value()


def _with_scheme(server: str) -> str:
    return server if "://" in server else f"http://{server}"


def _nothing() -> None:
    return None
