"""Where things are: one object read from the environment, once, in a composition root.

How a component behaves is a dataclass beside that component; this file only says where the
servers, the folders and the ports are. ``endpoints.py`` resolves what is left unset.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys.errors import ConfigurationError

BrokerKind = Literal["kafka", "tansu"]
AuthMode = Literal["required", "off"]


def _default_servers_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recsys" / "servers"


class Settings(BaseSettings):
    """Addresses and folders. An unset address means: the server ``recsys up`` started."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    def __init__(self, **values: Any) -> None:
        """Read the environment; ``values`` win over it. An empty variable counts as unset.

        Raises:
            ConfigurationError: when a value cannot be one; one line that names its variable.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = "; ".join(
                f"{problem['loc'][0]}: {problem['msg']}, found {problem['input']!r}"
                for problem in error.errors()
            )
            raise ConfigurationError(f"{wrong}; correct or unset it") from error

    kafka_bootstrap_servers: str | None = Field(None, alias="KAFKA_BOOTSTRAP_SERVERS")
    """``host:port[,host:port]`` of your Kafka cluster."""
    kafka_security_protocol: str = Field("PLAINTEXT", alias="KAFKA_SECURITY_PROTOCOL")
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    kafka_sasl_mechanism: str | None = Field(None, alias="KAFKA_SASL_MECHANISM")
    kafka_sasl_username: str | None = Field(None, alias="KAFKA_SASL_USERNAME")
    kafka_sasl_password: str | None = Field(None, alias="KAFKA_SASL_PASSWORD", repr=False)
    kafka_ssl_cafile: str | None = Field(None, alias="KAFKA_SSL_CAFILE")
    """Authorities of your Kafka; unset: the system's."""
    kafka_ssl_certfile: str | None = Field(None, alias="KAFKA_SSL_CERTFILE")
    """Our certificate, where Kafka asks for one."""
    kafka_ssl_keyfile: str | None = Field(None, alias="KAFKA_SSL_KEYFILE")
    kafka_ssl_password: str | None = Field(None, alias="KAFKA_SSL_PASSWORD", repr=False)
    """Of the key file."""
    kafka_ssl_check_hostname: bool = Field(True, alias="KAFKA_SSL_CHECK_HOSTNAME")
    kafka_home: Path | None = Field(None, alias="KAFKA_HOME")
    """An unpacked Kafka distribution for the embedded broker."""
    redis_url: str | None = Field(None, alias="REDIS_URL", repr=False)
    """Address of the online store; ``recsys/features/redis/address.py`` says what it may say."""
    triton_grpc_url: str | None = Field(None, alias="TRITON_GRPC_URL")
    """Where Triton is (``recsys/inference/triton_address.py``); it must see ``model_repository``
    under the same path."""
    ray_address: str | None = Field(None, alias="RAY_ADDRESS")
    """Ray cluster for training; unset starts a local one."""
    mlflow_tracking_uri: str | None = Field(None, alias="MLFLOW_TRACKING_URI", repr=False)
    """Where training runs are recorded; unset: a SQLite file under the state folder."""

    state_dir: Path = Field(Path("var"), alias="RECSYS_STATE_DIR")
    """Everything the system writes: server data, event log, bundles, process files."""
    servers_dir: Path = Field(default_factory=_default_servers_dir, alias="RECSYS_SERVERS_DIR")
    """Embedded servers' programs, shared by all clones; default ``~/.cache/recsys/servers``."""
    data_dir: Path = Field(Path("data"), alias="RECSYS_DATA_DIR")
    """Downloaded data sets, one folder each."""
    rules_file: Path | None = Field(None, alias="RECSYS_RULES_FILE")
    """Merchandising rules and exploration; unset: ``rules.toml`` in the state folder, if any."""
    spool_dir: Path | None = Field(None, alias="RECSYS_SPOOL_DIR")
    """Where records wait while Kafka is away; on a disk that outlives the process. Unset: ``spool``
    in the state folder."""
    spool_mb: int = Field(1024, alias="RECSYS_SPOOL_MB", ge=0, le=1024 * 1024)
    """Most MiB of events, and of exposures, that each API process keeps there; 0 keeps nothing:
    callers are told to send again, as soon as Kafka is away."""
    spool_hours: float = Field(72.0, alias="RECSYS_SPOOL_HOURS", gt=0, le=10_000)
    """Longest time a record may wait there before new ones are refused."""
    broker: BrokerKind | None = Field(None, alias="RECSYS_BROKER")
    """Forces the embedded broker; unset tries Apache Kafka, then Tansu."""
    namespace: str = Field("recsys", alias="RECSYS_NAMESPACE")
    """Prefix of topics and consumer groups, and Feast's project name."""
    num_partitions: int = Field(4, alias="RECSYS_PARTITIONS", ge=1, le=1024)
    """Partitions of a topic we create."""
    max_created_items: int = Field(100_000, alias="RECSYS_MAX_CREATED_ITEMS", ge=0, le=100_000_000)
    """Most items that a bundle is served with beside its own, which came after it was made; the
    model server's is that of ``recsys publish``."""
    host: str = Field("127.0.0.1", alias="RECSYS_HOST")
    """Address every embedded server and the API listen on."""
    api_host: str | None = Field(None, alias="RECSYS_API_HOST")
    """Address the API alone listens on; unset: as the others. The embedded servers ask nobody for
    a password, so they stay on loopback while the API serves other machines."""
    api_port: int = Field(8080, alias="RECSYS_API_PORT", ge=1, le=65535)
    deadline_ms: int = Field(500, alias="RECSYS_DEADLINE_MS", ge=10, le=60_000)
    """For a request whose caller names no deadline."""
    max_deadline_ms: int = Field(2_000, alias="RECSYS_MAX_DEADLINE_MS", ge=10, le=60_000)
    """The most a caller may name."""
    target_ms: float = Field(50.0, alias="RECSYS_TARGET_MS", ge=0, le=60_000)
    """Time of the 95th percentile above which requests are turned away; 0: none ever is."""
    item_features_max_age_ms: int = Field(
        2_000, alias="RECSYS_ITEM_FEATURES_MAX_AGE_MS", ge=1, le=86_400_000
    )
    """Answers ranked by older moving features of items are counted, and said in the log."""
    drain_s: float = Field(0.0, alias="RECSYS_DRAIN_S", ge=0, le=600)
    """From SIGTERM, when the API stops being ready, to when it takes no more connections."""
    api_workers: int = Field(1, alias="RECSYS_API_WORKERS", ge=1, le=64)
    """API processes ``recsys up`` starts on that port; the kernel shares connections out."""
    grpc_port: int = Field(0, alias="RECSYS_GRPC_PORT", ge=0, le=65535)
    """Where the API speaks gRPC, on the same address; 0: nowhere."""
    auth: AuthMode | None = Field(None, alias="RECSYS_AUTH")
    """Whether the API asks callers for a key; unset: only when other machines can reach it."""
    admin_port: int | None = Field(None, alias="RECSYS_ADMIN_PORT", ge=0, le=65535)
    """Where the endpoints of scope ``admin`` are; 0: on the API's own port; unset: there too, or
    8081 when callers are asked for a key."""
    admin_host: str = Field("127.0.0.1", alias="RECSYS_ADMIN_HOST")
    """Address the admin port listens on."""
    jwt_jwks: str | None = Field(None, alias="RECSYS_JWT_JWKS")
    """File or https URL of the keys that sign tokens; unset: no tokens are taken."""
    jwt_issuer: str | None = Field(None, alias="RECSYS_JWT_ISSUER")
    jwt_audience: str | None = Field(None, alias="RECSYS_JWT_AUDIENCE")
    jwt_algorithms: str = Field("RS256,ES256,EdDSA", alias="RECSYS_JWT_ALGORITHMS")
    jwt_scope_claim: str = Field("scope", alias="RECSYS_JWT_SCOPE_CLAIM")
    jwt_scope_prefix: str = Field("recsys:", alias="RECSYS_JWT_SCOPE_PREFIX")
    jwt_leeway_s: float = Field(30.0, alias="RECSYS_JWT_LEEWAY_S", ge=0, le=600)
    rate_limit: float | None = Field(None, alias="RECSYS_RATE_LIMIT", gt=0)
    """Requests a second of each key that has no rate of its own; unset: any number."""
    rate_burst: int | None = Field(None, alias="RECSYS_RATE_BURST", ge=1)
    """Requests at once of such a key; unset: a second's worth."""
    rate_limit_without_redis: Literal["local", "closed"] = Field(
        "local", alias="RECSYS_RATE_LIMIT_WITHOUT_REDIS"
    )
    """While Redis is away: each process counts alone, or nobody is let in."""
    tls_certfile: Path | None = Field(None, alias="RECSYS_TLS_CERTFILE")
    """PEM certificate chain of the API; set: it speaks TLS, 1.2 at least, on all its ports."""
    tls_keyfile: Path | None = Field(None, alias="RECSYS_TLS_KEYFILE")
    """PEM private key; unset: in the file of the certificate."""
    tls_client_cafile: Path | None = Field(None, alias="RECSYS_TLS_CLIENT_CAFILE")
    """PEM authorities; set: callers must show a certificate of theirs too."""
    worker_metrics_port: int = Field(18090, alias="RECSYS_WORKER_METRICS_PORT", ge=0, le=65535)
    """Where the stream worker shows its metrics at ``/metrics``, worker N on the Nth port after
    it; 0 shows none."""
    cpu_latency_us: int | None = Field(None, alias="RECSYS_CPU_LATENCY_US", ge=0, le=1_000_000)
    """Longest time a core may take to wake while ``recsys up`` runs, microseconds; 0: cores never
    sleep; unset: as the machine is set (``recsys/wakefulness.py``)."""
    stream_workers: int = Field(1, alias="RECSYS_STREAM_WORKERS", ge=1, le=256)
    """Stream workers ``recsys up`` starts; they share the partitions out among them."""
    redis_port: int = Field(16379, alias="RECSYS_REDIS_PORT", ge=1, le=65535)
    kafka_port: int = Field(19092, alias="RECSYS_KAFKA_PORT", ge=1, le=65535)
    """The KRaft controller takes the port after it."""
    triton_grpc_port: int = Field(18001, alias="RECSYS_TRITON_GRPC_PORT", ge=1, le=65535)
    """Triton's HTTP and metrics ports are the two after it."""

    @property
    def api_host_in_force(self) -> str:
        """Address the API listens on."""
        return self.api_host or self.host

    @property
    def run_dir(self) -> Path:
        """Process files of ``recsys up``: endpoints, pids, logs."""
        return self.state_dir / "run"

    @property
    def rules_path(self) -> Path:
        """The operator's rules; the file need not exist."""
        return self.rules_file or self.state_dir / "rules.toml"

    @property
    def rules_history_dir(self) -> Path:
        """The operator's rules as they were, by version."""
        return self.state_dir / "rules_history"

    @property
    def spool_path(self) -> Path:
        """Folder of the spools, one folder in it for each API process."""
        return self.spool_dir or self.state_dir / "spool"

    @property
    def event_log_dir(self) -> Path:
        """Parquet event log, ``<topic>/date=YYYY-MM-DD/*.parquet``."""
        return self.state_dir / "event_log"

    @property
    def static_list_path(self) -> Path:
        """Popular items of the bundle taken up last, for an API that has no bundle yet."""
        return self.state_dir / "static_list.json"

    @property
    def bundle_dir(self) -> Path:
        """Model bundles, one immutable folder each, and the live pointer."""
        return self.state_dir / "bundles"

    @property
    def model_repository(self) -> Path:
        """Triton model repository rendered from bundles."""
        return self.state_dir / "model_repository"
