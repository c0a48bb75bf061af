"""What is said of every request once it is answered: a metric and a line of the log."""

from payments import logs, metrics


def observe(method: str, route: str, status: int, seconds: float, client: str | None) -> None:
    """Counts and logs one answered request."""
    known = method if method in metrics.METHODS else metrics.OTHER_METHOD
    metrics.request_duration.observe(seconds, known, route, status)
    logs.request(known, route, status, seconds, client)
