"""smoke.py URL: checks a deployed service from outside, as `payments smoke` does.

It runs on the system's Python with nothing installed, so that no package of others runs beside the
pipeline's credentials. PAYMENTS_SMOKE_KEY is a key with all three scopes; without it, what needs no
key is checked.
"""

import os
import sys

from payments import smoke


def main(arguments: list[str]) -> None:
    """Checks the service.

    Raises:
        SystemExit: a check failed, or there is no address of a service.
    """
    if len(arguments) != 1:
        sys.exit(str(__doc__))
    try:
        failures = smoke.check(arguments[0], os.environ.get("PAYMENTS_SMOKE_KEY") or None, print)
    except smoke.Failed as error:
        sys.exit(str(error))
    sys.exit(failures > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
