"""Every failure that a caller can meet: one class each, one JSON shape (RFC 9457)."""

import json
import re
from typing import Any, ClassVar

import asyncpg
import msgspec

MEDIA_TYPE = "application/problem+json"

# What a statement can meet that says nothing about the caller's input: the server is away, going,
# read-only, full, or took too long. asyncpg raises OSError and TimeoutError for the network.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
)


QUOTED_CHARACTERS = 60

# The number of a card, sent in the wrong field, must not get into the log of a client. A fraction
# is no such number, and what is wrong with it can stand in its last digits.
_FRACTION_OR_ACCOUNT = re.compile(r"([0-9]\.[0-9]+)|[0-9]{4}(?:[ -]?[0-9]{4}){2,}[0-9]*")


def quoted(text: str) -> str:
    """Returns a caller's text as a message repeats it: in quotes, escaped, and not too long.

    Of twelve and more digits only the first four are repeated, unless they are a fraction.
    """
    text = _FRACTION_OR_ACCOUNT.sub(
        lambda number: number[1] or f"{number[0][:4]}...", text[: 2 * QUOTED_CHARACTERS]
    )
    cut = "…" if len(text) > QUOTED_CHARACTERS else ""
    return f"{json.dumps(text[:QUOTED_CHARACTERS])}{cut}"


class Problem(Exception):
    """A failure with a status, a stable `type` and a sentence about this occurrence.

    The class's docstring is the problem's title.
    """

    status: ClassVar[int]
    type: ClassVar[str]

    def __init__(self, detail: str, members: dict[str, Any] | None = None, **headers: str) -> None:
        """Takes the sentence, and what else the caller may need.

        Args:
            detail: what is wrong, and what to do.
            members: the problem's own members beside the standard ones (RFC 9457, section 3.2).
            headers: header fields of the answer; `_` stands for `-`.
        """
        super().__init__(detail)
        self.detail = detail
        self.members = members or {}
        self.headers = {name.replace("_", "-").lower(): value for name, value in headers.items()}

    @property
    def reason(self) -> str:
        """What metrics call this failure: the last part of its type."""
        return self.type.rpartition("/")[2]

    def body(self, request_id: str | None = None) -> bytes:
        """Returns the `application/problem+json` document."""
        problem = {
            "type": self.type,
            "title": (type(self).__doc__ or "").removesuffix("."),
            "status": self.status,
            "detail": self.detail,
        }
        problem |= self.members
        if request_id is not None:
            problem["request_id"] = request_id
        return msgspec.json.encode(problem)


class MalformedRequest(Problem):
    """The request could not be parsed."""

    status = 400
    type = "/problems/malformed-request"


class Unauthenticated(Problem):
    """A valid key is needed."""

    status = 401
    type = "/problems/unauthenticated"

    def __init__(self, detail: str, error: str | None = None) -> None:
        """`error` is RFC 6750's code, left out where no key was sent at all."""
        challenge = 'Bearer realm="payments"' + (f', error="{error}"' if error else "")
        super().__init__(detail, WWW_Authenticate=challenge)


class Forbidden(Problem):
    """The key lacks the scope for this."""

    status = 403
    type = "/problems/forbidden"


class NotFound(Problem):
    """There is nothing at this address."""

    status = 404
    type = "/problems/not-found"


class PaymentNotFound(Problem):
    """There is no such payment."""

    status = 404
    type = "/problems/payment-not-found"


class MethodNotAllowed(Problem):
    """This address does not take this method."""

    status = 405
    type = "/problems/method-not-allowed"


class RequestTimeout(Problem):
    """The request did not arrive in time."""

    status = 408
    type = "/problems/request-timeout"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, Connection="close")


class StatusConflict(Problem):
    """A consumed payment stays consumed."""

    status = 409
    type = "/problems/status-conflict"


class AlreadyConsumed(Problem):
    """The payment is consumed already."""

    status = 409
    type = "/problems/already-consumed"


class PreconditionFailed(Problem):
    """The payment is not in the state that the request's condition names."""

    status = 412
    type = "/problems/precondition-failed"


class BodyTooLarge(Problem):
    """The body is too large."""

    status = 413
    type = "/problems/body-too-large"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, Connection="close")


class UnsupportedMediaType(Problem):
    """The body must be JSON."""

    status = 415
    type = "/problems/unsupported-media-type"


class InvalidRequest(Problem):
    """The request is well-formed, but not right."""

    status = 422
    type = "/problems/invalid-request"


class IdempotencyKeyReused(Problem):
    """The Idempotency-Key was used for another request."""

    status = 422
    type = "/problems/idempotency-key-reused"


class HeadersTooLarge(Problem):
    """The headers are too large."""

    status = 431
    type = "/problems/headers-too-large"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, Connection="close")


class InternalError(Problem):
    """The service made a mistake."""

    status = 500
    type = "/problems/internal-error"


class TransferCodingNotImplemented(Problem):
    """The service does not decode this transfer coding."""

    status = 501
    type = "/problems/not-implemented"


class HttpVersionNotSupported(Problem):
    """The service speaks HTTP/1.1 and HTTP/1.0."""

    status = 505
    type = "/problems/http-version-not-supported"


class _Unavailable(Problem):
    status = 503
    retry_after_seconds = 1

    def __init__(self, detail: str) -> None:
        super().__init__(detail, Retry_After=str(self.retry_after_seconds))


class Overloaded(_Unavailable):
    """The service is at its capacity."""

    type = "/problems/overloaded"


class DatabaseUnavailable(_Unavailable):
    """The database does not answer."""

    type = "/problems/database-unavailable"


class DeadlineExceeded(_Unavailable):
    """The request could not be answered in time."""

    type = "/problems/deadline-exceeded"


class NotReady(_Unavailable):
    """The service is not ready."""

    type = "/problems/not-ready"
