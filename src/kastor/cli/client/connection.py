"""Connecting to a server: the one given, else the one running on this data folder, else a private one."""

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
    """The server's URL and the key for it, each as far as the user gave them."""

    server: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """A connection to a server. `check` raises once the server is known to have ended for good."""

    client: Client
    private: bool
    check: Callable[[], None]

    def check_detachable(self) -> None:
        """Check that the server outlives this command.

        Raises:
            FailedPrecondition: it is private and ends with the command.

        """
        if self.private:
            raise FailedPrecondition(
                f"--detach needs a running server. Start one first, in another terminal: {program()} serve --no-auth"
            )


@contextmanager
def connect(
    address: ServerAddress, out: Output, *, scheduler: bool = False, media_folder: Path | None = None
) -> Iterator[ServerConnection]:
    """A connection to a server for the duration of the block; a private server ends with it.

    `scheduler` says whether a private server runs jobs; commands that only read do without. `media_folder` is a folder
    that a private server may read media from.
    """
    if address.server is not None:
        with Client(_with_scheme(address.server), address.api_key) as client:
            yield ServerConnection(client, private=False, check=_no_check)
        return
    settings = load_settings()
    running = running_server(settings)
    if running is not None:
        with Client(running, address.api_key or _own_key(settings)) as client:
            yield ServerConnection(client, private=False, check=_no_check)
        return
    if media_folder is not None:
        settings = settings.model_copy(update={"media_folders": [*settings.media_folders, media_folder]})
    with private_connection(settings, out, scheduler=scheduler) as connection:
        yield connection


@contextmanager
def private_connection(settings: Settings, out: Output, *, scheduler: bool) -> Iterator[ServerConnection]:
    """A connection to a server that is started for this block."""
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
    """The URL of the server that runs on this data folder, checked by its instance id; `None` if there is none."""
    record = read_server_record(settings.data_dir)
    if record is None:
        return None
    try:
        with Client(record.url) as client:
            return record.url if client.instance(HEALTH_TIMEOUT_S) == record.instance else None
    except KastorError:
        return None


def _own_key(settings: Settings) -> str | None:
    """A key that the local server accepts: it reads the same settings as this command."""
    first = next(iter(settings.api_keys.values()), None)
    return None if first is None else first.get_secret_value()


def _with_scheme(server: str) -> str:
    return server if "://" in server else f"http://{server}"


def _no_check() -> None:
    return None
