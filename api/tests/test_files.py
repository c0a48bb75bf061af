"""Results of the long runs: a run that cannot write its own leaves the earlier ones alone."""

import stat
import subprocess
import sys
from pathlib import Path

from laptop import files

ROOT = Path(__file__).parents[2]

# As on a disk with room for no more than this.
FULL = """
import resource, signal, sys
from pathlib import Path
from laptop import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
files.replace(Path(sys.argv[1]), "new" * 100)
"""


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    for text in ("old", "ação\n"):
        files.replace(file, text)
        assert file.read_bytes() == text.encode()
    assert [*tmp_path.iterdir()] == [file]


def test_a_private_file_is_never_another_users(tmp_path: Path) -> None:
    files.replace(tmp_path / "key", "secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text("old")
    failed = subprocess.run(
        [sys.executable, "-c", FULL, file],
        cwd=ROOT / "api",
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert "File too large" in failed.stderr
    assert file.read_text() == "old"
    assert [*tmp_path.iterdir()] == [file]
