"""Files that another run may need: each is replaced as a whole, or stays as it was."""

import os
from pathlib import Path


def replace(file: Path, text: str, mode: int = 0o666) -> None:
    """Writes a file beside its place and onto the disk, and moves it there.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
