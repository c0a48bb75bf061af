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
from urllib.parse import parse_qsl, unquote, urlsplit

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
    "host": "PGHOST",
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

_INSISTING = ("require", "verify-ca", "verify-full")  # on TLS

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
    mistakes = (_mistake_in_option(*option) for option in options)
    return next(filter(None, mistakes), None) or _mistake_in_places(url, dict(options))


def _mistake_in_places(url: str, options: Mapping[str, str]) -> str | None:
    if _authority(url):
        # The driver would ignore them.
        beside = [name for name in ("host", "port") if name in options]
        if beside:
            return (
                f"{VARIABLE} has the option {beside[0]} beside a host: remove it, and write"
                " host:port before the name of the database"
            )
        return None
    if "host" in options and "port" in options:
        source = f"{VARIABLE}: port"
        return _mistake_in_count(_Option("port", options["port"], source), options["host"])
    return None


def _mistake_in_count(ports: _Option, hosts: str) -> str | None:
    given, needed = len(ports.value.split(",")), len(hosts.split(","))
    if given in {1, needed}:
        return None
    return f"{ports.source} has {given} ports for the hosts {hosts}: write one for each, or one"


def _authority(url: str) -> str:
    """Returns the hosts, with their ports, that stand before the name of the database."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _is_host(text: str) -> bool:
    """Returns whether the text is a host, with a port or without, or a directory of sockets."""
    if text.startswith("/"):
        return True
    try:
        parts = urlsplit(f"//{text}")
        host = unquote(parts.hostname or "")
        if not host.startswith("/"):
            host.encode("idna")  # as it is looked up: at most 63 characters between two dots
        return bool(host) and host.isprintable() and parts.netloc == text and parts.port != 0
    except ValueError:
        return False


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
            and all(map(_is_host, filter(None, hosts)))
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
    return _mistake_in_value(_Option(name, value, f"{VARIABLE}: {name}"))


def _mistake_in_value(option: _Option) -> str | None:
    choices = _CHOICES.get(option.name)
    if choices and option.value not in choices:
        return f"{option.source} is {option.value!r}, but must be one of {', '.join(choices)}"
    hosts = option.value.split(",") if option.name == "host" else []
    if wrong := [host for host in hosts if not _is_host(host)]:
        return (
            f"{option.source} has {wrong[0]!r}: write a name, an address, or one of them with its"
            " port, such as [::1]:5432"
        )
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
    authority = _authority(url)
    if authority:
        added.pop("host", None)
    for option in added.values():
        # To the driver, some that are empty are as good as not set.
        if (option.value or option.name in _NEVER_EMPTY) and (found := _mistake_in_value(option)):
            return found
    added = {name: option for name, option in added.items() if option.value}
    options = {name: _Option(name, value, f"{VARIABLE}: {name}") for name, value in in_url.items()}
    hosts = authority or (added | options).get("host", _Option("host", "", "")).value
    if hosts and "port" in added and (found := _mistake_in_count(added["port"], hosts)):
        return found
    mode = _mode(added | options, hosts)
    if mode == "disable":
        added = {name: option for name, option in added.items() if name == "sslnegotiation"}
    elif mode not in _INSISTING:
        # The driver reads them for the others alone.
        added = {name: o for name, o in added.items() if name not in {"sslrootcert", "sslcrl"}}
    return next(_mistakes_in_tls(added | options, mode), None)


def _mode(options: Mapping[str, _Option], hosts: str) -> str:
    """Returns the `sslmode` that the driver uses."""
    if "sslmode" in options:
        return options["sslmode"].value
    # Without a host it tries sockets, and then localhost.
    sockets = hosts and all(unquote(host).startswith("/") for host in hosts.split(","))
    return "disable" if sockets else "prefer"


def _mistakes_in_tls(options: Mapping[str, _Option], mode: str) -> Iterator[str]:
    negotiation = options.get("sslnegotiation")
    if negotiation and negotiation.value == "direct" and mode not in _INSISTING:
        yield f"{negotiation.source} is direct, which needs sslmode={' or '.join(_INSISTING)}"
    yield from _mistakes_in_files(options)


def _mistakes_in_files(options: Mapping[str, _Option]) -> Iterator[str]:
    for name in _FILES:
        if (option := options.get(name)) and (found := _mistake_in_file(option)):
            yield found
    if certificate := options.get("sslcert"):
        key = options["sslkey"].value if "sslkey" in options else _at_home("postgresql.key")
        password = options["sslpassword"].value if "sslpassword" in options else ""
        try:
            _context().load_cert_chain(certificate.value, key, lambda: password)
        except OSError:
            yield (
                f"{certificate.source}: {certificate.value} and the key {key} do not belong"
                " together, or the key needs another sslpassword"
                if key
                else f"{certificate.source}: the file {certificate.value} is not a certificate and"
                " its key: add sslkey=FILE"
            )
    mode = options.get("sslmode")
    has_authority = "sslrootcert" in options or _at_home("root.crt")
    if mode and mode.value.startswith("verify") and not has_authority:
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


def _at_home(name: str) -> str | None:
    """Returns a file that the driver looks for where none is named, if there is one."""
    try:
        file = Path.home() / ".postgresql" / name
    except RuntimeError:  # the user has no home
        return None
    return str(file) if file.exists() else None
