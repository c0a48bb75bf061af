"""The stand-in refuses what the provider's schema refuses, and behaves as a provider does."""

import json
import textwrap
from pathlib import Path

import pytest

from testkit import policy
from testkit.workspace import TerraformError, Workspace


@pytest.fixture
def refused(workspace: Workspace) -> "Refused":
    """A root whose database can be spoiled."""
    return Refused(workspace)


class Refused:
    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        workspace.init("environment")

    def with_line(self, line: str) -> str:
        """Returns what `validate` says with one more line in the database's block."""
        path: Path = self.workspace.directory / "environment" / "database.tf"
        text = path.read_text()
        path.write_text(text.replace("\n  identifier ", f"\n  {line}\n  identifier ", 1))
        with pytest.raises(TerraformError) as refusal:
            self.workspace.run("environment", "validate", "-no-color")
        return str(refusal.value)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("storage_is_encrypted = true", "Unsupported argument"),
        ('iops = "many"', "Inappropriate value for attribute"),
        ('address = "here"', "Value for unconfigurable attribute"),
        ("timeout {}", "Unsupported block type"),
        ("monitoring_role_arn = aws_iam_role.missing.arn", "Reference to undeclared resource"),
        ("kms_key_id = local.key_arn", "Attribute redefined"),
    ],
)
def test_a_mistake_is_refused(refused: Refused, line: str, complaint: str) -> None:
    assert complaint in refused.with_line(line)


def test_another_version_of_the_provider_is_not_installed(workspace: Workspace) -> None:
    path = workspace.directory / "environment" / "versions.tf"
    path.write_text(path.read_text().replace('"6.62.0"', '"6.61.0"'))
    with pytest.raises(TerraformError, match=r"6\.61\.0"):
        workspace.init("environment")


def test_a_policy_document_is_written_as_iam_reads_it() -> None:
    statement = {
        "sid": "Read",
        "effect": None,
        "actions": ["s3:GetObject", "s3:ListBucket"],
        "not_actions": None,
        "resources": ["arn:aws:s3:::bucket"],
        "not_resources": None,
        "principals": [{"type": "AWS", "identifiers": ["*"]}],
        "not_principals": [],
        "condition": [{"test": "Bool", "variable": "aws:SecureTransport", "values": ["true"]}],
    }
    document = policy.render({"source_policy_documents": None, "statement": [statement]})
    expected = """
      {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Sid": "Read",
        "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "arn:aws:s3:::bucket",
        "Principal": {"AWS": "*"}, "Condition": {"Bool": {"aws:SecureTransport": "true"}}
      }]}"""
    assert json.loads(document) == json.loads(textwrap.dedent(expected))
