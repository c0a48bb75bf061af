"""Checkov finds nothing, and what it is told to overlook says why where it stands."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_schemas import RENDERED


@pytest.mark.slow
def test_nothing_fails(tmp_path: Path) -> None:
    for name, manifests in RENDERED.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(manifests))
    result = subprocess.run(
        [
            ROOT / ".venv-checkov" / "bin" / "checkov",
            f"--directory={tmp_path}",
            "--framework=kubernetes",
            "--output=json",
            "--skip-download",
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # it leaves a cache of its parser there
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(result.stdout)
    failed = [
        f"{c['check_id']} {c['resource']} {c['file_path']}"
        for c in report["results"]["failed_checks"]
    ]
    assert failed == []
    assert report["summary"]["passed"] > 0
    assert report["summary"]["parsing_errors"] == 0
    for skipped in report["results"]["skipped_checks"]:
        assert len(skipped["check_result"]["suppress_comment"]) > 10, skipped["check_id"]
