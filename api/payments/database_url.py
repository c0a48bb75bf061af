"""The database's URL: which options it may have, and which files it names.

The driver sends an option that it does not know to PostgreSQL as a setting, so that each connection
fails while the service runs. Each mistake is therefore found at the start.
"""

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

VARIABLE = "PAYMENTS_DATABASE_URL"

_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "target_session_attrs": (
        *("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    ),
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_ACCEPTED = {
    *(*_CHOICES, *_FILES),
    *("host", "port", "dbname", "database", "user", "password", "sslpassword", "options"),
}

_DEAD_NETWORK = "PAYMENTS_COMMAND_TIMEOUT_SECONDS limits the wait on a dead network"
_NAMES = "the service names its connections itself"
_KERBEROS = "Kerberos is not supported"
_SERVICE_FILE = "write the host, the port and the rest of the service into the URL"
# libpq's options that would not do here what they do there, and what does it instead.
_INSTEAD = {
    "application_name": _NAMES,
    "fallback_application_name": _NAMES,
    "channel_binding": "sslmode=verify-full checks the server instead",
    "client_encoding": "the service uses UTF-8",
    "connect_timeout": "PAYMENTS_CONNECT_TIMEOUT_SECONDS is the time to open a connection",
    "gssdelegation": _KERBEROS,
    "gssencmode": _KERBEROS,
    "gsslib": _KERBEROS,
    "hostaddr": "write the address as the host",
    "keepalives": _DEAD_NETWORK,
    "keepalives_count": _DEAD_NETWORK,
    "keepalives_idle": _DEAD_NETWORK,
    "keepalives_interval": _DEAD_NETWORK,
    "krbsrvname": _KERBEROS,
    "requiressl": "write sslmode=require",
    "service": _SERVICE_FILE,
    "servicefile": _SERVICE_FILE,
    "sslcrldir": "write sslcrl=FILE",
    "tcp_user_timeout": _DEAD_NETWORK,
}

# What the driver reads where the URL lacks the option. It ignores PGSERVICE.
_ENVIRONMENT = {
    "port": "PGPORT",
    "sslcert": "PGSSLCERT",
    "sslcrl": "PGSSLCRL",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslrootcert": "PGSSLROOTCERT",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}

_NEVER_EMPTY = ("sslmode", "sslnegotiation", "target_session_attrs")


class _Option(NamedTuple):
    name: str
    value: str
    source: str  # as messages name it


def mistake(url: str) -> str | None:
    """Returns what is wrong with the URL itself, or None; repeats no part with a password."""
    if _needs_encoding(url):
        return (
            f"{VARIABLE} has a character that must be encoded: in a user, a password and a value"
            " write %40 for @, %23 for #, %2F for / and %3F for ?"
        )
    if not _is_postgresql(url):
        return f"{VARIABLE} is not postgresql://user@host:port/name"
    query = urlsplit(url).query
    try:
        options = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        return f"{VARIABLE} has an option without a value: write ?name=value&name=value"
    return next(filter(None, (_mistake_in_option(*option) for option in options)), None)


def _needs_encoding(url: str) -> bool:
    authority = re.split("[/?]", url.partition("://")[2], maxsplit=1)[0]
    return "#" in url or url.count("@") > 1 or ("@" in url and "@" not in authority)


def _is_postgresql(url: str) -> bool:
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        return (
            parts.scheme in {"postgresql", "postgres"}
            and (len(hosts) == 1 or all(hosts))
            and all(urlsplit(f"//{host}").port != 0 for host in hosts)
        )
    except ValueError:
        return False


def _mistake_in_option(name: str, value: str) -> str | None:
    if instead := _INSTEAD.get(name):
        return f"{VARIABLE} has the option {name}: remove it; {instead}"
    if name not in _ACCEPTED:
        return f"{VARIABLE} has the option {name}, which is not supported: remove it"
    if not value:
        return f"{VARIABLE} has the option {name} without a value: write one, or remove it"
    if (name, value) == ("sslrootcert", "system"):
        return (
            f"{VARIABLE} has sslrootcert=system, which is not supported: name the file, such as"
            " /etc/ssl/certs/ca-certificates.crt"
        )
    if name == "host" and not all(value.split(",")):
        return f"{VARIABLE} has an empty host in the option host"
    return _mistake_in_value(_Option(name, value, f"{VARIABLE}: {name}"))


def _mistake_in_value(option: _Option) -> str | None:
    choices = _CHOICES.get(option.name)
    if choices and option.value not in choices:
        return f"{option.source} is {option.value!r}, but must be one of {', '.join(choices)}"
    ports = option.value.split(",") if option.name == "port" else []
    if not all(port.isdecimal() and 0 < int(port) < 65536 for port in ports):
        return f"{option.source} must be a number from 1 to 65535"
    return None


def mistake_here(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Returns what is wrong with the `PG*` variables and the files on this machine, or None.

    Args:
        url: one without a mistake of its own.
        environ: the environment variables.
    """
    in_url = dict(parse_qsl(urlsplit(url).query))
    added = {
        name: _Option(name, environ[variable], variable)
        for name, variable in _ENVIRONMENT.items()
        if name not in in_url and variable in environ
    }
    for option in added.values():
        # To the driver, some that are empty are as good as not set.
        if (option.value or option.name in _NEVER_EMPTY) and (found := _mistake_in_value(option)):
            return found
    options = {name: _Option(name, value, f"{VARIABLE}: {name}") for name, value in in_url.items()}
    if _uses_tls(url, added | options):
        options |= {name: option for name, option in added.items() if option.value}
    return next(_mistakes_in_files(options), None)


def _uses_tls(url: str, options: Mapping[str, _Option]) -> bool:
    if "sslmode" in options:
        return options["sslmode"].value != "disable"
    host = urlsplit(url).hostname or (options["host"].value if "host" in options else "/")
    return not host.startswith("/")


def _mistakes_in_files(options: Mapping[str, _Option]) -> Iterator[str]:
    for name in _FILES:
        if (option := options.get(name)) and (found := _mistake_in_file(option)):
            yield found
    if (certificate := options.get("sslcert")) and (key := options.get("sslkey")):
        password = options["sslpassword"].value if "sslpassword" in options else ""
        try:
            _context().load_cert_chain(certificate.value, key.value, lambda: password)
        except OSError:
            yield (
                f"{certificate.source}: {certificate.value} and the key {key.value} do not belong"
                " together, or the key needs another sslpassword"
            )
    mode = options.get("sslmode")
    if mode and mode.value.startswith("verify") and not _has_authority(options):
        yield (
            f"{mode.source} is {mode.value}, which needs sslrootcert=FILE: the certificates of the"
            " authority that signed the server's"
        )


def _mistake_in_file(option: _Option) -> str | None:
    try:
        Path(option.value).read_bytes()
        if option.name in {"sslrootcert", "sslcrl"}:
            _context().load_verify_locations(option.value)
    except ssl.SSLError:
        return f"{option.source}: the file {option.value} is not in PEM form"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"{option.source}: the file {option.value} cannot be read ({reason})"
    return None


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _has_authority(options: Mapping[str, _Option]) -> bool:
    try:
        return "sslrootcert" in options or (Path.home() / ".postgresql/root.crt").exists()
    except RuntimeError:  # the user has no home
        return False
