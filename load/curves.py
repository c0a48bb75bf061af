"""How latency grows with load, and throughput with connections."""

from collections.abc import Iterator, Sequence

import generators
from servers import Server

# Parts of the most that the server did under wrk.
LOADS = (0.1, 0.25, 0.5, 0.7, 0.85, 0.95)
LOAD_ROUNDS = 3
LOAD_SECONDS = 5.0
CONNECTIONS = (1, 4, 16, 64, 256)
CONNECTIONS_SECONDS = 4.0


def latency(server: Server, most: float) -> Iterator[dict[str, object]]:
    """Yields a point for each load: what was asked a second, and how long the answers took."""
    for part in LOADS:
        rate = round(most * part)
        figures = generators.median(
            [generators.vegeta([server], rate, LOAD_SECONDS) for _ in range(LOAD_ROUNDS)]
        )
        print(
            f"open model  {server.name:18}  {rate:6,} requests/s"
            f"  p50 {figures.p50_ms:.1f} ms  p99 {figures.p99_ms:.1f} ms",
            flush=True,
        )
        yield {"server": server.name, "part": part, "asked": rate, **figures._asdict()}


def throughput(servers: Sequence[Server]) -> Iterator[dict[str, object]]:
    """Yields a point for each server and number of connections."""
    for connections in CONNECTIONS:
        for server in servers:
            figures = generators.wrk(server, "create", connections, CONNECTIONS_SECONDS)
            print(
                f"{connections:3} connections  {server.name:18}  {figures.rate:8,.0f} requests/s",
                flush=True,
            )
            yield {"server": server.name, "connections": connections, **figures._asdict()}
