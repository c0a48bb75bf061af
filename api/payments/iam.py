"""IAM database authentication: in place of a password, a token signed for each new connection.

A token is the presigned URL of a call to `rds-db:connect` (AWS Signature Version 4), by which RDS
knows who signed it. It opens connections for 15 minutes, and they outlive it.
"""

import asyncio
import hashlib
import hmac
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec

from payments.config import SettingsError

# What EKS Pod Identity (and ECS) sets in a container: where to ask, and a file with who asks. The
# file's content changes, so that it is read each time.
ENDPOINT = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
ENDPOINT_TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"  # noqa: S105 - the variable's name

KEY_ID = "AWS_ACCESS_KEY_ID"
SECRET_KEY = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the variable's name

TOKEN_LIFETIME_SECONDS = 900  # RDS takes none that lasts longer
RENEW_BEFORE_SECONDS = 300  # EKS has new ones by then, and an outage of it has time to pass
ENDPOINT_TIMEOUT_SECONDS = 1.0  # less than the time to open a connection; it is on the same node

# Whatever proxy the environment names, credentials are asked for on the node itself.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class CredentialsError(ConnectionError):
    """There are no credentials to sign with; the message says why."""


class Credentials(NamedTuple):
    """What signs."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_at: float  # seconds since 1970


class _Answer(msgspec.Struct, rename="pascal"):
    access_key_id: str
    secret_access_key: str
    token: str
    expiration: Annotated[datetime, msgspec.Meta(tz=True)]


class Tokens:
    """The password of a database user, as asyncpg asks for it before each connection.

    The credentials come from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`,
    or from the container's credentials endpoint, and are kept until shortly before their end.
    """

    def __init__(self, url: str, region: str, environ: Mapping[str, str] = os.environ) -> None:
        """Takes the user, the host and the port from the database's URL.

        Raises:
            SettingsError: the environment gives no AWS credentials, or half of them.
        """
        _check(environ)
        parts = urlsplit(url)
        self._user = unquote(parts.username or "")
        self._host = f"{parts.hostname}:{parts.port or 5432}"
        self._region = region
        self._environ = environ
        self._credentials: Credentials | None = None
        self._asking: asyncio.Task[Credentials] | None = None

    async def __call__(self) -> str:
        """Returns a new token.

        Raises:
            CredentialsError: there are none, and no earlier ones that are still good.
        """
        credentials = await self._current()
        return sign(credentials, self._region, self._host, self._user, datetime.now(UTC))

    async def _current(self) -> Credentials:
        known = self._credentials
        if known and known.expires_at - time.time() > RENEW_BEFORE_SECONDS:
            return known
        # One question for all who wait, that goes on when the one who asked first gives up.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            return await asyncio.shield(self._asking)
        except CredentialsError:
            if known and known.expires_at > time.time():
                return known
            raise

    async def _ask(self) -> Credentials:
        # Kept here: whoever waits may have given up by the time of the answer.
        self._credentials = await asyncio.to_thread(read_credentials, self._environ)
        return self._credentials


def password(url: str, region: str) -> Tokens | None:
    """Returns what gives the passwords if a region is set; without one the URL has the password."""
    return Tokens(url, region) if region else None


def _check(environ: Mapping[str, str]) -> None:
    """Checks that the environment says where credentials come from; empty is as good as not set.

    Raises:
        SettingsError: it does not; the message names the variable.
    """
    missing = [name for name in (KEY_ID, SECRET_KEY) if not environ.get(name)]
    if len(missing) == 1:
        (set_,) = {KEY_ID, SECRET_KEY} - {*missing}
        raise SettingsError(f"{missing[0]} is not set, but {set_} is: set both or neither")
    if not missing:
        return
    endpoint = environ.get(ENDPOINT)
    if not endpoint:
        raise SettingsError(
            f"PAYMENTS_DATABASE_IAM_REGION needs AWS credentials: neither {ENDPOINT} nor"
            f" {KEY_ID} and {SECRET_KEY} are set"
        )
    try:
        parts = urlsplit(endpoint)
        host = (parts.hostname or "").encode("idna")
        possible = parts.scheme in {"http", "https"} and host and parts.port != 0
    except ValueError:
        possible = False
    if not possible:
        raise SettingsError(f"{ENDPOINT} is not http://host:port/path")
    if file := environ.get(ENDPOINT_TOKEN_FILE):
        try:
            _read_token(file)
        except CredentialsError as error:
            raise SettingsError(str(error)) from None
        except OSError as error:
            raise SettingsError(
                f"{ENDPOINT_TOKEN_FILE}: the file {file} cannot be read ({error.strerror})"
            ) from None


def _read_token(file: str) -> str:
    """Returns the token in a file.

    Raises:
        CredentialsError: the file has no token; the message repeats none of it.
        OSError: the file cannot be read.
    """
    token = Path(file).read_bytes().decode("ascii", "replace").strip()
    if not (token.isascii() and token.isprintable()):
        raise CredentialsError(
            f"{ENDPOINT_TOKEN_FILE}: the file {file} is not one line of ASCII characters"
        )
    return token


def read_credentials(environ: Mapping[str, str]) -> Credentials:
    """Returns credentials from the environment or, blocking, from the container's endpoint.

    Raises:
        CredentialsError: the endpoint cannot be reached, or gives none.
    """
    if environ.get(KEY_ID):
        return Credentials(
            environ[KEY_ID],
            environ[SECRET_KEY],
            environ.get("AWS_SESSION_TOKEN", ""),
            float("inf"),
        )
    request = urllib.request.Request(environ[ENDPOINT])  # noqa: S310 - the cluster's own address
    try:
        if file := environ.get(ENDPOINT_TOKEN_FILE):
            request.add_header("Authorization", _read_token(file))
        with _open(request, timeout=ENDPOINT_TIMEOUT_SECONDS) as response:
            answer = msgspec.json.decode(response.read(), type=_Answer)
    except CredentialsError:
        raise
    except (OSError, ValueError, http.client.HTTPException, msgspec.DecodeError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the answer too, with its connection
        raise CredentialsError(f"{ENDPOINT} gives no credentials: {error}") from error
    return Credentials(
        answer.access_key_id,
        answer.secret_access_key,
        answer.token,
        answer.expiration.timestamp(),
    )


def sign(by: Credentials, region: str, host: str, user: str, at: datetime) -> str:
    """Returns a token for a user at `host:port`, good for 15 minutes from a time in UTC.

    Source: AWS, "Create a signed AWS API request", with the parameters in the query string.
    """
    second = at.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{second[:8]}/{region}/rds-db/aws4_request"
    parameters = {
        "Action": "connect",
        "DBUser": user,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{by.access_key_id}/{scope}",
        "X-Amz-Date": second,
        "X-Amz-Expires": str(TOKEN_LIFETIME_SECONDS),
        **({"X-Amz-Security-Token": by.session_token} if by.session_token else {}),
        "X-Amz-SignedHeaders": "host",
    }
    # The order is part of what is signed: by name, as they stand above.
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    empty = hashlib.sha256().hexdigest()
    request = f"GET\n/\n{query}\nhost:{host}\n\nhost\n{empty}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{by.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signed = f"AWS4-HMAC-SHA256\n{second}\n{scope}\n{digest}"
    signature = hmac.digest(key, signed.encode(), "sha256").hex()
    return f"{host}/?{query}&X-Amz-Signature={signature}"
