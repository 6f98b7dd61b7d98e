"""What an operator can set. Environment variables `KASTOR_*` win over a TOML file, that over these defaults.

Unknown keys are refused. Read at the composition roots only (`server`, `worker`, `engine`, `cli`). What a *user* asks
for is not here: it comes with the request and is stored with the job.
"""

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from kastor.domain.errors import InvalidArgument

PREFIX = "KASTOR_"
COMPUTE_VARIABLES = {
    # OpenMP threads that wait for one another sleep instead of spinning. Beside busy neighbours on two cores a training
    # step took 1.2-1.6 s instead of 32-49 s, a decode step 0.1 s instead of 0.6-11 s (docs/log.md)
    "OMP_WAIT_POLICY": "PASSIVE",
}
FILE_VARIABLE = "KASTOR_CONFIG"


def _user_dir(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "kastor"


class Settings(BaseSettings):
    """One field, one meaning; the unit stands in the name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Field(
        default_factory=lambda: _user_dir("XDG_DATA_HOME", ".local/share"),
        description="Jobs, datasets, checkpoints, tuned models and the default database.",
    )
    cache_dir: Path = Field(
        default_factory=lambda: _user_dir("XDG_CACHE_HOME", ".cache"),
        description="Base models; may be deleted at any time.",
    )
    database_url: str | None = Field(None, description="postgresql+psycopg://… ; SQLite inside data_dir when absent.")
    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port the server listens on; 0 picks a free one.")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="Port for gRPC, on the same host; 0 picks a free one. Absent: no gRPC."
    )
    grpc_cert_file: Path | None = Field(None, description="Certificate that gRPC shows, PEM; made here when absent.")
    grpc_key_file: Path | None = Field(None, description="Its key, PEM.")
    grpc_hosts: list[str] = Field(
        default_factory=list, description="More names and addresses for the certificate that is made here."
    )
    grpc_insecure: bool = Field(False, description="Speak gRPC in plain text; only where `host` is this machine.")
    api_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="E-mail of a caller -> their key, beside the keys that `kastor keys create` makes. For containers.",
    )
    operators: list[str] = Field(
        default_factory=list, description="E-mails of callers who may do everything, however they come in."
    )
    no_auth: bool = Field(False, description="Let everybody in as operator; only where `host` is this machine.")
    oidc_issuer: str | None = Field(None, description="OpenID provider whose bearer tokens are taken; https://…")
    oidc_audience: str | None = Field(None, description="Whom its tokens must be meant for (aud); needs oidc_issuer.")
    oidc_email_claim: str = Field("email", min_length=1, description="Claim that says who the caller is.")
    oidc_groups_claim: str = Field("groups", min_length=1, description="Claim that lists the caller's groups.")
    cors_origins: list[str] = Field(
        default_factory=list, description="Pages of other sites that may call: https://app.example, or * for any."
    )
    max_connections: int = Field(
        2048, ge=8, le=100_000, description="Connections held at a time, as far as the limit of open files allows."
    )
    request_head_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="A request's line and headers must arrive within this."
    )
    request_body_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="A connection whose body or answer does not move on for this long is closed."
    )
    keep_alive_timeout_s: int = Field(
        5, ge=1, le=3600, description="A connection without a next request is closed after this."
    )
    metrics: Literal["key", "open"] = Field(
        "key", description="Who may read `GET /metrics`: operators by their key, or everybody."
    )
    profile: Literal["gemini-api", "open"] = Field("gemini-api", description="Which limits requests are held to.")
    accepted_licences: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Licences of base models that are agreed to, so that they may be fetched: gemma. Commas between.",
    )
    catalog_file: Path | None = Field(None, description="A TOML file of further base models and aliases.")
    max_running_jobs: int = Field(1, ge=1, le=64, description="Jobs that train at the same time.")
    max_worker_deaths: int = Field(
        3, ge=1, le=100, description="A job fails when its worker died this many times without getting further."
    )
    heartbeat_timeout_s: float = Field(10.0, ge=1, le=3600, description="A silent worker is taken for dead after this.")
    cancel_timeout_s: float = Field(
        60.0, ge=1, le=3600, description="A worker that has not stopped this long after a cancel is ended."
    )
    spare_worker_timeout_s: float = Field(
        600.0, ge=0, description="A worker waits so long for a next job, with everything loaded; 0: none does."
    )
    engine_idle_timeout_s: float = Field(600.0, ge=1, description="An unused generation process ends after this.")
    engine_silence_timeout_s: float = Field(
        60.0, ge=1, description="A generation process that does not answer for this long is ended."
    )
    engine_stall_timeout_s: float = Field(
        120.0,
        ge=1,
        description="A generation process that is at one pass of its model for this long answers no more, and is ended "
        "after engine_silence_timeout_s.",
    )
    database_timeout_s: float = Field(
        30.0, ge=1, le=3600, description="How long to wait for the database; callers get 503 after that."
    )
    max_resident_adapters: int = Field(32, ge=1, le=1024, description="Adapters one generation process keeps loaded.")
    max_batch_rows: int = Field(16, ge=1, le=256, description="Answers one generation process produces side by side.")
    num_threads: int | None = Field(
        None, ge=1, description="Threads a worker or engine computes with; all cores if absent."
    )
    base_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="What base models compute in; auto: bfloat16 where the processor multiplies it in hardware."
    )
    media_folders: list[Path] = Field(
        default_factory=list, description="Folders whose files datasets and requests may name; none by default."
    )
    media_buckets: list[str] = Field(
        default_factory=list, description="Buckets that may be read: gs://bucket/folder, or gs:// for all."
    )
    media_addresses: list[str] = Field(
        default_factory=list, description="Private addresses that media may come from: 10.0.0.0/8, media.internal."
    )
    dataset_limits: dict[str, float] = Field(
        default_factory=dict, description='Limits of datasets to raise: {"max_images": 50}.'
    )
    media_cache_bytes: int = Field(50 * 1024**3, ge=1, description="Size of the cache of fetched media.")
    frame_cache_bytes: int = Field(
        50 * 1024**3, ge=1, description="Size of the cache of decoded pictures, as models are shown them."
    )
    feature_cache_bytes: int = Field(20 * 1024**3, ge=1, description="Size of the cache of what vision towers saw.")
    max_file_bytes: int = Field(2 * 1024**3, ge=1, description="Size of one uploaded file.")
    file_ttl_hours: float = Field(48.0, gt=0, le=87_600, description="An uploaded file is deleted after this.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="What the server logs; debug adds requests that only read, as polling clients send.",
    )
    log_format: Literal["console", "json"] = Field("console", description="How the processes' logs look.")

    @field_validator("accepted_licences", mode="before")
    @classmethod
    def _licence_names(cls, value: object) -> object:
        """Names with commas between, or a JSON list as other lists have it."""
        if not isinstance(value, str):
            return value
        text = value.strip()
        return json.loads(text) if text.startswith("[") else [name.strip() for name in text.split(",") if name.strip()]

    @property
    def resolved_database_url(self) -> str:
        """The database in use."""
        return self.database_url or f"sqlite:///{self.data_dir / 'kastor.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file that KASTOR_CONFIG names."""
        file = os.environ.get(FILE_VARIABLE)
        toml = (TomlConfigSettingsSource(settings_cls, Path(file)),) if file else ()
        return (init_settings, env_settings, *toml)


def load_settings(**overrides: object) -> Settings:
    """The settings in force; `overrides` (command-line options that were given) win.

    Raises:
        InvalidArgument: a value is wrong or a key unknown; names each, and where it was set.

    """
    file = os.environ.get(FILE_VARIABLE)
    if file and not Path(file).is_file():
        raise InvalidArgument(f"{FILE_VARIABLE} names {file!r}, which is not a file.")
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {
        FILE_VARIABLE,
        f"{PREFIX}SERVER",
        f"{PREFIX}API_KEY",
    }
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise InvalidArgument(
            f"Unknown setting {', '.join(unknown)} in the environment; known are {', '.join(sorted(known))}."
        )
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # validated by pydantic
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidArgument(f"Wrong settings: {wrong}.") from error
    except (SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        where = f" (the file is {file})" if file else ""
        raise InvalidArgument(f"Settings cannot be read{where}: {error}.") from error


def environment(settings: Settings) -> dict[str, str]:
    """The same settings as environment variables, and what must be set before torch is loaded: for child processes.

    They answer no callers, so the keys stay here.
    """
    variables = {name: os.environ.get(name, value) for name, value in COMPUTE_VARIABLES.items()}
    variables[f"{PREFIX}API_KEYS"] = "{}"
    for name, value in settings.model_dump(mode="json", exclude_none=True, exclude={"api_keys"}).items():
        variables[PREFIX + name.upper()] = value if isinstance(value, str) else json.dumps(value)
    return variables
