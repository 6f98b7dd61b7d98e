"""Composition root of the HTTP process: puts service, application, scheduler and engine client together and runs them.

No torch here: it starts in under a second. Training and generation happen in child processes.
"""

import contextlib
import shlex
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from kastor.api.app import Services, make_app
from kastor.api.http.observability import Metrics
from kastor.domain.errors import FailedPrecondition, KastorError
from kastor.domain.request_limits import PROFILES
from kastor.domain.worker_exit import ResourceRequest
from kastor.executors.local import LocalExecutor
from kastor.media.cache import MediaCache
from kastor.models.catalog import load_catalog
from kastor.models.download import check_agreement
from kastor.runtime.logging import configure_logs
from kastor.runtime.server_record import locked_folder, new_instance, publish_server_record
from kastor.security.access_settings import AccessSettings
from kastor.security.auth import Authenticator
from kastor.security.file_modes import restrict_data
from kastor.security.grpc_settings import GrpcSettings
from kastor.server.connection_limits import ConnectionLimits, connection_limits
from kastor.server.http_protocol import limited_http_protocol
from kastor.server.http_server import HttpServer, ShutdownSignals
from kastor.server.listener import bind_socket, socket_url
from kastor.services.access import ModelAccess
from kastor.services.cleanup import run_cleanup
from kastor.services.datasets import DatasetService
from kastor.services.files import FileService
from kastor.services.generation import GenerationService
from kastor.services.media_inspector import LocalMediaInspector
from kastor.services.prompt_media import PromptMediaResolver
from kastor.services.sampling_records import SamplingRecordCache
from kastor.services.scheduler import Scheduler
from kastor.services.sharing import SharingService
from kastor.services.trained_prompts import TrainedPromptKinds
from kastor.services.tuning import TuningService
from kastor.serving.lazy_engine import LazyEngine
from kastor.settings import Settings, environment
from kastor.store.blobs.disk_reserve import DiskReserve
from kastor.store.blobs.job_files import JobFiles
from kastor.store.blobs.upload_blobs import UploadBlobs
from kastor.store.database import Database, open_database
from kastor.store.files import FileStore
from kastor.store.grants import GrantStore
from kastor.store.installation import prepare_installation
from kastor.store.jobs import JobStore
from kastor.store.keys import KeyStore
from kastor.store.models import ModelStore

if TYPE_CHECKING:
    from kastor.api.grpc.server import GrpcServer

GRACE_S = 5  # for answers under way, once the server is told to end


def serve(
    settings: Settings,
    *,
    run_scheduler: bool = True,
    announce: bool = True,
    on_listening: Callable[[str], None] = lambda url: None,
    on_grpc: Callable[[str, Path | None], None] = lambda endpoint, authority: None,
    on_ending: Callable[[int], None] = lambda jobs: None,
) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends the end quickly.

    `run_scheduler` False only answers, and leaves jobs to another server of the same database. `announce` writes
    `server.json` into the data folder, by which commands find this server, and speaks gRPC if the settings
    say so. `on_listening` gets the URL; `on_grpc`, before it, gRPC's address and the authority that callers must trust;
    `on_ending`, once it is told to end, how many jobs there are that have not ended.

    Raises:
        InvalidArgument: settings contradict one another.
        FailedPrecondition: the port is taken, another server has the data folder, this is another database's, a folder
            cannot be used, or nobody could come in.
        Unavailable: the database cannot be reached.

    """
    doors, rpc_door = access_settings(settings), _rpc_door(settings)
    doors.check()
    rpc_door.check()
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(ShutdownSignals())
        listener = stack.enter_context(bind_socket(settings.host, settings.port, settings.data_dir))
        configure_logs(settings.log_format, settings.log_level)
        restrict_data(settings.data_dir, settings.cache_dir)
        if announce:
            stack.enter_context(locked_folder(settings.data_dir))
        url = socket_url(listener)
        database = open_database(settings.resolved_database_url, timeout_s=settings.database_timeout_s)
        stack.callback(database.close)
        reserve = DiskReserve(settings.data_dir)
        prepare_installation(database, reserve, settings.data_dir)
        _check_entry(settings, doors, database)
        instance = new_instance()
        running = _Running(settings, database, reserve, signals.closing, instance)
        stack.callback(running.end)
        if announce and rpc_door.port is not None:
            running.open_rpc(rpc_door, settings.data_dir / "tls", url)

        def started() -> None:
            running.start_rpc(on_grpc)
            on_listening(url)

        def ending() -> None:
            on_ending(running.num_waiting_jobs() if run_scheduler else 0)
            running.hang_up()

        server = HttpServer(running.config(), on_started=started, on_ending=ending)
        if run_scheduler:
            running.begin()
        if announce:
            stack.enter_context(publish_server_record(settings.data_dir, url, instance))
        with signals.serving(server):
            server.run(sockets=[listener])


class _Running:
    """The parts of one server and the threads beside the HTTP loop."""

    def __init__(
        self, settings: Settings, database: Database, reserve: DiskReserve, closing: threading.Event, instance: str
    ) -> None:
        self._reserve = reserve
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._database = database
        jobs, blobs = JobStore(database), JobFiles(settings.data_dir)
        self._engine = LazyEngine(
            environment(settings),
            log_dir=settings.data_dir / "logs",
            idle_timeout_s=settings.engine_idle_timeout_s,
            silence_timeout_s=settings.engine_silence_timeout_s,
        )
        self._executor = LocalExecutor(environment(settings), blobs, spare_idle_s=settings.spare_worker_timeout_s)
        self._scheduler = Scheduler(
            jobs,
            self._executor,
            max_running=settings.max_running_jobs,
            max_deaths=settings.max_worker_deaths,
            heartbeat_timeout_s=settings.heartbeat_timeout_s,
            cancel_timeout_s=settings.cancel_timeout_s,
            resources=ResourceRequest(num_cores=settings.num_threads),
            clock=_now,
        )
        models, catalog = ModelStore(database), load_catalog(settings.catalog_file)
        check_base = partial(check_agreement, cache_dir=settings.cache_dir, accepted=settings.accepted_licences)
        self._tuning = TuningService(
            jobs=jobs,
            models=models,
            blobs=blobs,
            catalog=catalog,
            clock=_now,
            wake=self._wake.set,
            make_room=reserve.release,
            check_base=check_base,
        )
        sharing = SharingService(access=ModelAccess(models), grants=GrantStore(database), clock=_now)
        self._files = FileService(
            files=FileStore(database),
            blobs=UploadBlobs(settings.data_dir),
            clock=_now,
            max_file_bytes=settings.max_file_bytes,
            ttl=timedelta(hours=settings.file_ttl_hours),
        )
        generation = GenerationService(
            access=ModelAccess(models),
            jobs=jobs,
            catalog=catalog,
            generator=self._engine,
            sights=PromptMediaResolver(_eyes(settings), self._files.path_of),
            trained=SamplingRecordCache(blobs.verified_adapter).get,
            check_base=check_base,
            prompts=TrainedPromptKinds(models, blobs.dataset),
        )
        datasets = DatasetService(tuning=self._tuning, files=self._files, blobs=blobs, folders=settings.media_folders)
        services = Services(self._tuning, generation, sharing, self._files, datasets)
        self._metrics = Metrics(CollectorRegistry())
        self._rpc: GrpcServer | None = None
        self._app = make_app(
            services,
            _authenticator(settings, database),
            self._metrics,
            closing,
            limits=PROFILES[settings.profile],
            instance=instance,
            cors_origins=settings.cors_origins,
            public_metrics=settings.metrics == "open",
            faults=self._faults,
        )
        self._threads: tuple[threading.Thread, ...] = ()
        self._connection_bounds = ConnectionLimits(
            max_connections=connection_limits(settings.max_connections),
            head_s=settings.request_head_timeout_s,
            body_s=settings.request_body_timeout_s,
            write_s=settings.request_body_timeout_s,
        )
        self._keep_alive_s = settings.keep_alive_timeout_s

    def _faults(self) -> list[str]:
        told = [f"The generation process for models/{base} does not answer." for base in self._engine.silent()]
        return told + (["The database does not answer."] if self._database.num_overdue_calls else [])

    def config(self) -> uvicorn.Config:
        """How HTTP is served."""
        bounds = self._connection_bounds
        return uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http=limited_http_protocol(bounds),  # type: ignore[arg-type]  # called as a class is; half the processor time of h11 for a polled operation (docs/log.md)
            loop="asyncio",
            server_header=False,
            backlog=bounds.backlog,
            timeout_keep_alive=self._keep_alive_s,
            timeout_graceful_shutdown=GRACE_S,
        )

    def open_rpc(self, door: GrpcSettings, folder: Path, url: str) -> None:
        """Take the port of gRPC, beside HTTP at `url`; only here is anything of it imported."""
        try:
            from kastor.api.grpc.server import create_grpc_server
        except ImportError as error:
            said = (
                f"gRPC needs the package {error.name}. In Kastor's checkout: pip install '.[grpc]'; or leave "
                "--grpc-port out."
            )
            raise FailedPrecondition(said) from error
        app, clock = self._app, _now
        self._rpc = create_grpc_server(
            app.routes, app.endpoints, self._metrics, door, folder, http_url=url, clock=clock
        )

    def start_rpc(self, on_grpc: Callable[[str, Path | None], None]) -> None:
        """Answer over gRPC, if its port was taken, and say so."""
        if self._rpc is not None:
            self._rpc.start()
            on_grpc(self._rpc.endpoint, self._rpc.authority)

    def begin(self) -> None:
        """Start the threads that run jobs."""
        tidy = (
            self._tuning.delete_orphans,
            self._tuning.delete_stale_uploads,
            self._files.delete_orphans,
            self._reserve.keep,
        )
        self._threads = (
            threading.Thread(target=self._scheduler.run, args=(self._stop, self._wake), name="scheduler"),
            threading.Thread(target=run_cleanup, args=(tidy, self._stop), name="tidy"),
        )
        for thread in self._threads:
            thread.start()

    def num_waiting_jobs(self) -> int:
        """How many jobs have not ended; none where the database does not say."""
        try:
            counts = self._tuning.job_counts()
        except KastorError:
            return 0
        return sum(number for state, number in counts.items() if not state.terminal)

    def hang_up(self) -> None:
        """End the generating processes, and with them the answers under way."""
        if self._rpc is not None:
            self._rpc.stop(GRACE_S)
        self._engine.close()

    def end(self) -> None:
        """Stop the threads, the workers and the engines; an interrupt in the meantime makes it quick."""
        self._stop.set()
        self._wake.set()
        try:
            if self._rpc is not None:
                self._rpc.close()
            self._end_jobs()
            self._engine.close()
        except KeyboardInterrupt:
            self._executor.shutdown(0.0)
            self._end_jobs()
            self._engine.close()

    def _end_jobs(self) -> None:
        for thread in self._threads:
            thread.join()
        if self._threads:
            self._scheduler.shutdown()


def _eyes(settings: Settings) -> LocalMediaInspector:
    cache = MediaCache(settings.cache_dir / "media", max_bytes=settings.media_cache_bytes)
    return LocalMediaInspector(cache, settings.media_folders, settings.media_buckets, settings.media_addresses)


def access_settings(settings: Settings) -> AccessSettings:
    """The ways in that the settings open."""
    return AccessSettings(
        host=settings.host,
        no_auth=settings.no_auth,
        secrets=[secret.get_secret_value() for secret in settings.api_keys.values()],
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        cors_origins=settings.cors_origins,
    )


def _rpc_door(settings: Settings) -> GrpcSettings:
    return GrpcSettings(
        host=settings.host,
        port=settings.grpc_port,
        certificate=settings.grpc_cert_file,
        key=settings.grpc_key_file,
        hosts=settings.grpc_hosts,
        insecure=settings.grpc_insecure,
    )


def _check_entry(settings: Settings, doors: AccessSettings, database: Database) -> None:
    elsewhere = settings.data_dir != Settings.model_fields["data_dir"].get_default(call_default_factory=True)
    options = f" --data-dir {shlex.quote(str(settings.data_dir))}" if elsewhere else ""
    doors.check_entry(stored_key=KeyStore(database).any_usable(_now()), options=options)
    for warning in doors.warnings():
        structlog.get_logger().warning(warning)


def _authenticator(settings: Settings, database: Database) -> Authenticator:
    tokens = None
    if settings.oidc_issuer is not None and settings.oidc_audience is not None:
        from kastor.security.oidc import OidcVerifier  # costs 0.1 s, which other servers save

        tokens = OidcVerifier(
            settings.oidc_issuer,
            settings.oidc_audience,
            email_claim=settings.oidc_email_claim,
            groups_claim=settings.oidc_groups_claim,
        )
    return Authenticator(
        {email: secret.get_secret_value() for email, secret in settings.api_keys.items()},
        keys=KeyStore(database),
        tokens=tokens,
        operators=settings.operators,
        no_auth=settings.no_auth,
    )


def _now() -> datetime:
    return datetime.now(UTC)
