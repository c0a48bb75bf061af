"""The settings: read once from `PAYMENTS_*` environment variables, typed, checked together."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal, get_type_hints
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Meta

from payments import database_url, expected

PREFIX = "PAYMENTS_"

# What Kubernetes sets in a pod for a Service that is called payments.
_SERVICE_LINK = re.compile(r"PAYMENTS_(SERVICE_(HOST|PORT)|PORT=tcp://|PORT_[0-9]+_)")

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
Ratio = Annotated[float, Meta(ge=0, le=1)]


class SettingsError(Exception):
    """A setting is missing, unknown or impossible; the message names the variable."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit, size and time of the service; docs/service.md has a table of them."""

    database_url: Annotated[str, Meta(description="`postgresql://…` URL of the database")]
    database_iam_region: Annotated[
        str,
        Meta(
            pattern="^([a-z]+(-[a-z]+)+-[0-9]+)?$",
            examples=["sa-east-1"],
            description="Region of the RDS database that IAM opens, without a password in the URL",
        ),
    ] = ""
    database_pooler: Annotated[
        bool,
        Meta(description="Whether PgBouncer is before the database, in transaction mode"),
    ] = False
    http_host: Annotated[
        str,
        Meta(
            pattern="^[!-~]+$",
            examples=["127.0.0.1"],
            description="Address or name that all ports listen on; `::` is IPv6 and IPv4",
        ),
    ] = "0.0.0.0"
    http_port: Annotated[Port, Meta(description="Port of the API; 0 takes a free one")] = 8000
    metrics_port: Annotated[
        Port, Meta(description="Port of `/metrics`, never to be reachable from outside")
    ] = 9464
    authentication: Annotated[
        bool, Meta(description="Whether a key is asked for; `false` makes every caller `anonymous`")
    ] = True
    revision: Annotated[
        str,
        Meta(description="Commit that runs, for `payments_build_info`; the image knows its own"),
    ] = "unknown"
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        Meta(description="Least severity that is logged: DEBUG, INFO, WARNING or ERROR"),
    ] = "INFO"
    log_slow_seconds: Annotated[
        Seconds, Meta(description="A request that takes this long is always logged, as a WARNING")
    ] = 0.25  # the latency objective
    log_sample_ratio: Annotated[
        Ratio, Meta(description="Share of the other requests, but for failed ones, that are logged")
    ] = 1.0
    otlp_endpoint: Annotated[
        str,
        Meta(
            pattern=r"^(https?://\S+)?$",
            examples=["http://collector:4318"],
            description="URL of an OpenTelemetry collector (OTLP over HTTP); without: no traces",
        ),
    ] = ""
    trace_sample_ratio: Annotated[
        Ratio, Meta(description="Share of requests that are traced, where the caller does not say")
    ] = 0.1

    body_limit_bytes: Annotated[Count, Meta(description="Larger bodies are refused with 413")] = (
        64 * 1024
    )
    header_limit_bytes: Annotated[
        Count, Meta(description="Request line and headers above this are refused with 431")
    ] = 16 * 1024
    header_limit_fields: Annotated[
        Count, Meta(description="More header fields than this are refused with 431")
    ] = 64
    header_timeout_seconds: Annotated[
        Seconds, Meta(description="Time for a request's headers to arrive, then 408")
    ] = 10.0
    body_timeout_seconds: Annotated[
        Seconds, Meta(description="Time for a request's body to arrive, then 408")
    ] = 30.0
    write_timeout_seconds: Annotated[
        Seconds, Meta(description="A client that takes nothing of its answer this long is cut off")
    ] = 30.0
    keep_alive_seconds: Annotated[
        Seconds, Meta(description="Idle connections live longer than the load balancer's 60 s")
    ] = 75.0
    request_timeout_seconds: Annotated[
        Seconds, Meta(description="Time from the whole request to its answer, then 503")
    ] = 5.0
    active_requests_limit: Annotated[
        Count, Meta(description="Requests at one time; the next one is refused with 503")
    ] = 1000

    pool_size: Annotated[Count, Meta(description="Most database connections for requests")] = 8
    connect_timeout_seconds: Annotated[
        Seconds, Meta(description="Time to open one database connection")
    ] = 1.5
    acquire_timeout_seconds: Annotated[
        Seconds, Meta(description="Time to get a connection from the pool")
    ] = 1.8
    command_timeout_seconds: Annotated[
        Seconds, Meta(description="Time for one statement as the service sees it (a dead network)")
    ] = 3.0
    # A write that began a minute before is refused: 0004_events.sql.
    statement_timeout_seconds: Annotated[
        float, Meta(gt=0, le=60, description="Time for one statement as PostgreSQL sees it")
    ] = 2.5
    lock_timeout_seconds: Annotated[
        Seconds, Meta(description="Time that one statement waits for a lock")
    ] = 2.0
    ready_timeout_seconds: Annotated[
        Seconds, Meta(description="Time that a readiness probe gives the database")
    ] = 1.0

    batch_size: Annotated[Count, Meta(description="Most calls that share one statement")] = 128
    batch_limit_bytes: Annotated[
        Count, Meta(description="Creations share a statement up to this much data")
    ] = 1024 * 1024  # PostgreSQL takes 0.3 s for it, a tenth of what a statement may take
    batch_queue_limit: Annotated[
        Count, Meta(description="Most calls that wait for a statement; the next one gets 503")
    ] = 1000

    key_refresh_seconds: Annotated[
        float, Meta(gt=0, le=20, description="Age in seconds at which the keys are read again")
    ] = 10.0
    page_limit_bytes: Annotated[
        Count, Meta(description="A list page ends early when its data passes this")
    ] = 4 * 1024 * 1024

    shutdown_delay_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="Time to serve on, not ready, after the signal to stop"),
    ] = 10.0
    shutdown_timeout_seconds: Annotated[
        Seconds, Meta(description="Time for requests to finish once no new ones are taken")
    ] = 40.0


# Each wait must end before the one around it, or the outer one hides which of them failed. Where a
# request needs several statements, its own limit is the last one.
_ORDER = (
    ("lock_timeout_seconds", "statement_timeout_seconds"),
    ("statement_timeout_seconds", "command_timeout_seconds"),
    ("connect_timeout_seconds", "acquire_timeout_seconds"),
)


def variable(field: str) -> str:
    """Returns the environment variable of a field: `pool_size` is `PAYMENTS_POOL_SIZE`."""
    return PREFIX + field.upper()


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads the settings.

    Raises:
        SettingsError: a variable is missing, has a bad value, or is unknown (a typing mistake
            would otherwise be ignored in silence); the message names it.
    """
    fields = get_type_hints(Settings, include_extras=True)
    given = {
        name[len(PREFIX) :].lower(): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and not _SERVICE_LINK.match(f"{name}={value}")
    }
    for field in given:
        if field not in fields:
            raise SettingsError(f"{variable(field)} is not a setting of this service")
    if "database_url" not in given:
        raise SettingsError(f"{variable('database_url')} is not set")
    values = {}
    for field, text in given.items():
        try:
            values[field] = msgspec.convert(text, fields[field], strict=False)
        except msgspec.ValidationError:
            # A URL can carry a password, so that no value is repeated here.
            needed = expected.values(fields[field])
            raise SettingsError(f"{variable(field)} must be {needed}") from None
    return check(Settings(**values))


def check_database(url: str, iam_region: str = "") -> None:
    """Checks that the URL can be one, and is safe for IAM if a region is set; asks no network.

    Raises:
        SettingsError: it is not. It can carry a password, so that no part of it is repeated.
    """
    if mistake := database_url.mistake(url):
        raise SettingsError(mistake)
    if iam_region and not _is_safe_for_iam(url):
        raise SettingsError(
            f"{variable('database_url')} is not"
            " postgresql://user@host:port/name?sslmode=verify-full&sslrootcert=/file, as"
            f" {variable('database_iam_region')} needs it"
        )


def check_here(url: str, environ: Mapping[str, str] = os.environ) -> None:
    """Checks what this machine adds to the database's URL: `PG*` variables, and files.

    Raises:
        SettingsError: a variable is wrong, or a file cannot be used; the message names it.
    """
    if mistake := database_url.mistake_here(url, environ):
        raise SettingsError(mistake)


def _is_safe_for_iam(url: str) -> bool:
    # A token is as good as a password: whom it is sent to must have proved its name. One host,
    # because its name is part of what is signed.
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    return (
        bool(parts.username and parts.hostname)
        and parts.password is None
        and "," not in parts.netloc
        and not options.keys() & {"host", "port", "user", "password"}
        and options.get("sslmode") == ["verify-full"]
        and "sslrootcert" in options
    )


def check(settings: Settings) -> Settings:
    """Returns the settings if they fit together.

    Raises:
        SettingsError: a wait is not shorter than the one around it, or the URL is none.
    """
    check_database(settings.database_url, settings.database_iam_region)
    for inner, outer in _ORDER:
        if getattr(settings, inner) >= getattr(settings, outer):
            raise SettingsError(f"{variable(inner)} must be less than {variable(outer)}")
    waits = settings.acquire_timeout_seconds + settings.command_timeout_seconds
    if waits >= settings.request_timeout_seconds:
        raise SettingsError(
            f"{variable('acquire_timeout_seconds')} and {variable('command_timeout_seconds')}"
            f" must together be less than {variable('request_timeout_seconds')}"
        )
    return settings
