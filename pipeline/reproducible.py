"""reproducible.py: builds the image twice without a cache, and compares the two layer by layer.

Settings are environment variables: DOCKER, and what `make image` takes (BASE, BUILD_FLAGS). Fails
when the application's layer differs, and names the files in it that do.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

DOCKER = os.environ.get("DOCKER") or "docker"
NAME = "payments-reproducible"

# The layer that holds all that this repository and its locks put into the image.
APPLICATION = "COPY /image /"


class Layer(NamedTuple):
    """A layer of an image: what made it, and the digest of its content."""

    made_by: str
    digest: str


def layers(config: Any) -> list[Layer]:
    """Returns the layers that an image's configuration names, from the base up."""
    history = config["history"]
    digests = config["rootfs"]["diff_ids"]
    makers = [h.get("created_by", "the base") for h in history if not h.get("empty_layer")]
    return [Layer(*pair) for pair in zip(makers, digests, strict=True)]


def differences(first: list[Layer], second: list[Layer]) -> list[str]:
    """Returns what made the layers that differ."""
    if [layer.made_by for layer in first] != [layer.made_by for layer in second]:
        return ["the steps themselves"]
    return [a.made_by for a, b in zip(first, second, strict=True) if a.digest != b.digest]


def files(saved: Path, layer: int) -> dict[str, str]:
    """Returns each entry of a saved image's layer, with a digest of all that it is."""
    found = {}
    with tarfile.open(saved) as image:
        name = manifest(image)["Layers"][layer]
        with tarfile.open(fileobj=image.extractfile(name)) as archive:
            for entry in archive:
                about = (entry.type, entry.mode, entry.uid, entry.gid, entry.mtime, entry.linkname)
                content = archive.extractfile(entry)
                digest = hashlib.sha256(content.read() if content else b"").hexdigest()
                found[entry.name] = f"{about} {digest}"
    return found


def manifest(image: tarfile.TarFile) -> Any:
    """Returns what a saved image says of itself."""
    return read(image, "manifest.json")[0]


def read(image: tarfile.TarFile, name: str) -> Any:
    """Returns a JSON file of a saved image.

    Raises:
        KeyError: there is none.
    """
    file = image.extractfile(name)
    if file is None:
        raise KeyError(name)
    return json.load(file)


def build(saved: Path) -> list[Layer]:
    """Builds the image and saves it; returns its layers."""
    flags = f"{os.environ.get('BUILD_FLAGS', '')} --no-cache".strip()
    print(f"Build {saved.stem} of 2", flush=True)
    command = ["make", "image", f"IMAGE={NAME}", f"BUILD_FLAGS={flags}", f"DOCKER={DOCKER}"]
    command.append(f"BASE={os.environ.get('BASE', '')}")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"make image failed:\n{result.stderr[-4000:]}")
    subprocess.run([DOCKER, "save", "--output", saved, NAME], check=True)
    subprocess.run([DOCKER, "rmi", NAME], check=True, capture_output=True)
    with tarfile.open(saved) as image:
        return layers(read(image, manifest(image)["Config"]))


def main() -> None:
    """Builds and compares.

    Raises:
        SystemExit: the application's layer is not the same twice.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = [Path(folder, f"{number}.tar") for number in (1, 2)]
        first, second = [build(file) for file in saved]
        different = differences(first, second)
        for layer, again in zip(first, second, strict=True):
            mark = "differs" if layer.digest != again.digest else "the same"
            print(f"{mark}  {layer.digest[:19]}  {layer.made_by[:70]}")
        [place] = [n for n, layer in enumerate(first) if layer.made_by.startswith(APPLICATION)]
        for number, layer in enumerate(first):
            if layer.made_by in different:
                one, other = (files(file, number) for file in saved)
                names = sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))
                print(f"In {layer.made_by[:40]}: {len(names)} entries, {', '.join(names[:10])}")
        if first[place].digest != second[place].digest:
            sys.exit("Two builds of one commit gave two applications")
        print(f"The application is the same twice: {first[place].digest}")


if __name__ == "__main__":
    main()
