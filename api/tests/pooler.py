"""PgBouncer in transaction mode before the database, as docs/pgbouncer.ini has it.

The service alone goes through it, as in production: the tests themselves, and the other commands,
go to PostgreSQL.
"""

import configparser
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

import msgspec

from laptop.children import Account, prefix, wait_until
from laptop.postgres import SOCKET_PREFIX, Cluster
from payments import config, db
from tests import PATIENCE_SECONDS, command

# Debian keeps it outside a user's PATH.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or "pgbouncer"
EXAMPLE = Path(__file__).parents[2] / "docs" / "pgbouncer.ini"

_ports = count(6432)


def example() -> configparser.ConfigParser:
    """Reads the documented settings."""
    parser = configparser.ConfigParser(interpolation=None)
    assert parser.read(EXAMPLE)
    return parser


def connect_query(settings: config.Settings) -> str:
    """Returns what sets a connection of PostgreSQL as the service would set its own."""
    return "; ".join(f"SET {name} = {value}" for name, value in db.session(settings).items())


class Poolers:
    """The PgBouncers of a cluster: one for each set of limits that a test gives the service."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        """They run until the stack is closed."""
        self._cluster = cluster
        self._stack = stack
        self._ports: dict[str, int] = {}

    def before(self, settings: config.Settings) -> config.Settings:
        """Returns settings that lead through a PgBouncer to a database of this cluster."""
        if settings.database_pooler or not self._is_here(settings.database_url):
            return settings
        query = connect_query(settings)
        if query not in self._ports:
            self._ports[query] = self._stack.enter_context(self._run(query))
        url = settings.database_url.replace("port=5432", f"port={self._ports[query]}")
        assert url != settings.database_url
        return msgspec.structs.replace(settings, database_url=url, database_pooler=True)

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The same for a process's variables."""
        url = variables.get("PAYMENTS_DATABASE_URL", "")
        if not self._is_here(url):
            return dict(variables)
        url = self.before(config.load(variables)).database_url
        return dict(variables) | {"PAYMENTS_DATABASE_URL": url, "PAYMENTS_DATABASE_POOLER": "true"}

    def _is_here(self, url: str) -> bool:
        return quote(str(command.sockets(self._cluster)), safe="") in url

    @contextmanager
    def _run(self, query: str) -> Iterator[int]:
        port = next(_ports)
        sockets = command.sockets(self._cluster)
        file = self._cluster.data.with_name(f"pgbouncer-{port}.ini")
        settings = example()
        to = f"host={sockets} port=5432 user=payments_app connect_query='{query}'"
        settings["databases"] = {"*": to}
        here = {"listen_addr": "", "listen_port": str(port), "unix_socket_dir": str(sockets)}
        settings["pgbouncer"].update(here, auth_type="any", auth_file="")
        with file.open("w") as written:
            settings.write(written)
        # Root is refused; PostgreSQL's own user can reach its socket.
        owner = sockets.stat()
        account = Account(owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None
        said = file.with_suffix(".log")
        with (
            said.open("wb") as log,
            subprocess.Popen(
                [*prefix("TERM", account, [file]), PROGRAM, str(file)], stdout=log, stderr=log
            ) as process,
        ):
            try:
                socket = sockets / f"{SOCKET_PREFIX}{port}"
                wait_until(lambda: socket.exists() or process.poll() is not None, PATIENCE_SECONDS)
                assert socket.exists(), said.read_text()
                yield port
            finally:
                process.terminate()
