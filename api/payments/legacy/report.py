"""The file that lists the rows which an import leaves out: whole, or as it was before."""

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

HEAD = ("row", "id", "reason")


class ReportError(Exception):
    """The report cannot be written; the message says why."""


class Report:
    """A CSV file, written beside its name and renamed once it is whole.

    `-` is standard output. A device or a pipe is written to as it is.
    """

    def __init__(self, name: str, source: str) -> None:
        """Opens it, before anything is read.

        Raises:
            ReportError: it cannot be written, or is the source itself.
        """
        self.name = name
        self._beside: Path | None = None
        with self._failing():
            self._path = Path(name)
            self._file = self._open(source)
            self._writer = csv.writer(self._file)
            self.write(HEAD)

    def close(self) -> None:
        """Removes what was written, unless it was finished."""
        if self._file is not sys.stdout:
            with suppress(OSError):  # on a full disk, of what is thrown away
                self._file.close()
        if self._beside is not None:
            self._beside.unlink(missing_ok=True)

    def write(self, row: Sequence[object]) -> None:
        """Adds a row.

        Raises:
            ReportError: the disk is full, or the like.
        """
        with self._failing():
            self._writer.writerow(row)

    def finish(self) -> None:
        """Replaces an earlier report.

        Raises:
            ReportError: the disk is full, or the like; the earlier report is as it was.
        """
        with self._failing():
            self._file.flush()
            if self._beside is not None:
                os.fsync(self._file.fileno())
                self._beside.replace(self._path)
                self._beside = None

    def _open(self, source: str) -> TextIO:
        if self.name == "-":
            if sys.stdout is None:
                raise ReportError("the report cannot be written: standard output is closed")
            return sys.stdout
        sources: list[int | str] = [0] if source == "-" else []
        sources += [os.path.realpath(source) + end for end in ("", "-wal", "-shm", "-journal")]
        for one in sources:
            with suppress(OSError):  # it is not there, or the source is an address
                if os.path.samestat(self._path.stat(), os.stat(one)):  # noqa: PTH116 - or a descriptor
                    raise ReportError(
                        f"the report {self.name} is the source itself: name another file with"
                        " --report"
                    )
        path = self._path
        if path.is_file() or not path.exists():
            self._path = path.resolve()
            path = self._beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        return path.open(
            "x" if self._beside else "w", encoding="utf-8", errors="backslashreplace", newline=""
        )

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise ReportError(
                f"the report {self.name} cannot be written: {reason}; nothing was imported"
            ) from None
