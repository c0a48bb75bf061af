"""Finds out what the operator named: an address, a SQLite file, or a list as JSON."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from payments.legacy.http_list import UrlInput, public
from payments.legacy.json_list import FileInput, JsonSource, StandardInput
from payments.legacy.row import OldPayment
from payments.legacy.sqlite_file import MAGIC, SqliteSource
from payments.legacy.survey import Options, SourceError, Survey

_GIVE = "give a SQLite file, a JSON file, or an http(s) address"


class Source(Protocol):
    """Where the payments come from."""

    survey: Survey

    def total(self) -> int | None:
        """Returns how many rows there are, as far as is known so far."""

    def rows(self) -> Iterator[OldPayment]:
        """Reads them, once, in constant memory; the survey is whole at their end.

        Raises:
            SourceError: they cannot be read to their end.
        """


def printed(name: str) -> str:
    """Returns the name of a source as it may be printed: the query of an address can be secret."""
    return public(name) if "://" in name else name


def open_source(name: str, options: Options) -> Source:
    """Returns the source of this name: a URL, a file, or `-` for standard input.

    Raises:
        SourceError: it is none of these.
    """
    if re.match(r"https?://", name, re.IGNORECASE):
        return JsonSource(UrlInput(name, follow_pages=options.follow_pages), options)
    if options.follow_pages:
        raise SourceError("--follow-pages is for the address of a list; a file has no pages")
    if name == "-":
        return JsonSource(StandardInput(), options)
    path = Path(name)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceError(f"{printed(name)} is not a file: {_GIVE}")
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except FileNotFoundError:
        raise SourceError(f"{printed(name)} does not exist: {_GIVE}") from None
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror}") from None
    if start == MAGIC:
        return SqliteSource(path, options)
    if options.table is not None:
        raise SourceError(f"{name} is not a SQLite file, so that --table names nothing in it")
    return JsonSource(FileInput(path), options)
