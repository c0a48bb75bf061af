"""Schemathesis: whatever it makes of `openapi.yaml`, the service answers as the document says."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from payments import docs
from tests.conftest import Database, Serve
from tests.test_openapi import OPERATIONS

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PHASES = ("examples", "coverage", "fuzzing", "stateful")

# One that is known to make every kind of request. Others, and many more requests, found no more.
SEED = 1
LIMIT_SECONDS = 1500  # a busy machine is slow, and not wrong

# Small ids are drawn most often. They are to be found, or most requests would end in 404.
MAKE_PAYMENTS = """
INSERT INTO payments (payment, created_by) SELECT id, 'earlier' FROM generate_series(1, 500) AS id
"""

LIVES = """
SELECT
  count(*) FILTER (WHERE consumed_at > created_at) AS consumed,
  count(*) FILTER (WHERE deleted_at IS NOT NULL) AS deleted,
  count(*) FILTER (WHERE idempotency_key IS NOT NULL) AS keyed,
  count(*) FILTER (WHERE payment IS NULL) AS without_value,
  (SELECT count(*) FROM consumptions) AS consumptions_with_a_key
FROM payments
"""


@pytest.mark.timeout(LIMIT_SECONDS + 100)
async def test_it_finds_nothing(start: Serve, database: Database, tmp_path: Path) -> None:
    await database.fetch(MAKE_PAYMENTS)
    report = tmp_path / "report.json"
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        "--no-color",
        f"--config-file={HERE / 'schemathesis.toml'}",
        "run",
        # The file, because it leaves out /openapi.json if it reads the document from there.
        docs.OPENAPI,
        f"--url={await start()}",
        f"--header=Authorization: Bearer {await database.key()}",
        f"--phases={','.join(PHASES)}",
        "--checks=all",
        f"--seed={SEED}",
        "--report=json",
        f"--report-json-path={report}",
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(HERE)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()

    found = json.loads(report.read_text())
    assert found["complete"], output.decode()
    assert found["operations"] == {
        "total": len(OPERATIONS),
        "selected": len(OPERATIONS),
        "tested": len(OPERATIONS),
        "errored": 0,
        "skipped": 0,
        "skip_reasons": [],
    }
    assert {name: phase["status"] for name, phase in found["phases"].items()} == dict.fromkeys(
        PHASES, "success"
    )
    assert {name: {*rates} for name, rates in found["valid_rates"].items()} == {
        f"{operation.route.method} {operation.path}": {*PHASES} - {"stateful"}
        for operation in OPERATIONS.values()
    }
    for operation, rates in found["valid_rates"].items():
        assert sum(rate["accepted"] for rate in rates.values()) > 0, operation
    assert found["failures"] == found["errors"] == []
    assert found["test_cases"]["errored"] == 0
    # That some payments are missing is no fault here: see above.
    warnings = {kind for kind, known in found["warnings"].items() if known}
    assert warnings <= {"missing_test_data"}, output.decode()
    # It has done what the service is for, and not only met refusals.
    [lives] = await database.fetch(LIVES)
    assert all(number > 0 for number in lives.values()), lives
