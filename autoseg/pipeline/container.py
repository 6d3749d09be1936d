"""A model as a container image for challenges that run submissions themselves, such as those on grand-challenge.org."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import autoseg
from autoseg.core.files import write_bytes, write_json

ENTRY = '''"""Segments the images in /input, writes the labels to /output; config.json names the folders below them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")


def stem(path: Path) -> str:
    return path.name[: -len(next(ending for ending in ENDINGS if path.name.endswith(ending)))]


def main() -> int:
    config = json.loads((HERE / "config.json").read_text())
    source, target = Path(os.environ.get("INPUT", "/input")), Path(os.environ.get("OUTPUT", "/output"))
    folders = [source / folder for folder in config["inputs"]]
    channels = [sorted(p for p in folder.glob("*") if p.name.endswith(ENDINGS)) for folder in folders]
    if len({len(files) for files in channels}) != 1 or not channels[0]:
        found = ", ".join(f"{len(files)} in {folder}" for folder, files in zip(folders, channels))
        print(f"images: {found}; every folder needs one per case", file=sys.stderr)
        return 1
    if len(channels[0]) > 1 and len({tuple(stem(path) for path in files) for files in channels}) > 1:
        print("images: of several cases, all channels of a case need the same file name", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        images, labels = Path(temporary) / "images", Path(temporary) / "labels"
        images.mkdir()
        names = {}
        for number, files in enumerate(zip(*channels)):
            names[f"case{number:04d}"] = stem(files[0])
            for channel, path in enumerate(files):
                ending = path.name[len(stem(path)) :]
                (images / f"case{number:04d}_{channel:04d}{ending}").symlink_to(path)
        command = [sys.executable, "-m", "autoseg", "predict", "-m", str(HERE / "model"), "--format", config["format"]]
        code = subprocess.call([*command, "-i", str(images), "-o", str(labels), *config["options"]])
        (target / config["output"]).mkdir(parents=True, exist_ok=True)
        for path in labels.glob(f"case*.{config['format']}"):
            shutil.copyfile(path, target / config["output"] / f"{names[path.name[:8]]}.{config['format']}")
        return code


if __name__ == "__main__":
    sys.exit(main())
'''
DOCKERFILE = """FROM python:3.11-slim
RUN useradd --create-home user && mkdir -p /opt/app /input /output && chown user /opt/app /input /output
COPY requirements.txt /opt/app/
RUN pip install --no-cache-dir -r /opt/app/requirements.txt
COPY autoseg /opt/app/autoseg
COPY model /opt/app/model
COPY process.py config.json /opt/app/
USER user
WORKDIR /opt/app
ENV PYTHONPATH=/opt/app MPLCONFIGDIR=/tmp
ENTRYPOINT ["python", "/opt/app/process.py"]
"""
README = """# {name} as a container

Build and try it, with images in `test/input/{first}`:

```bash
docker build -t {tag} .
docker run --rm --network none --gpus all -v $PWD/test/input:/input:ro -v $PWD/test/output:/output {tag}
```

Leave `--gpus all` out on a machine without a GPU. Save it for an upload:

```bash
docker save {tag} | gzip > {tag}.tar.gz
```

`config.json` holds what a challenge decides, relative to `/input` and `/output`:

- `inputs`: one folder per channel of the model, in this order: {channels};
- `output`: folder for the label files, which are called after the images of the first channel;
- `format`: mha, nii.gz, nii or nrrd;
- `options`: further options of autoseg_predict, such as `--no_mirroring` where time is short.

On grand-challenge.org the folders are those of the sockets, for example `images/ct` and `images/organ-segmentation`.
The container needs no network and does not run as root. It was not built when this folder was written.
"""


def write_container(folder: Path, *, name: str, channel_names: Sequence[str]) -> None:
    """Add to a folder that holds model/ all that `docker build` needs: this package, what it requires, an entry point.

    Args:
        folder: where `model` lies.
        name: of the model.
        channel_names: of the model.
    """
    shutil.copytree(
        Path(autoseg.__file__).parent, folder / "autoseg", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    write_bytes(folder / "requirements.txt", "\n".join([*_requirements(), ""]).encode())
    write_bytes(folder / "process.py", ENTRY.encode())
    write_bytes(folder / "Dockerfile", DOCKERFILE.encode())
    words = [re.sub(r"[^a-z0-9]+", "-", channel.lower()).strip("-") or "image" for channel in channel_names]
    # two channels of one name are two folders
    inputs = [f"images/{word}" if words.count(word) == 1 else f"images/{word}-{i}" for i, word in enumerate(words)]
    write_json(
        folder / "config.json",
        {"inputs": inputs, "output": "images/segmentation", "format": "mha", "options": []},
    )
    tag = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"
    text = README.format(name=name, tag=tag, first=inputs[0], channels=", ".join(channel_names))
    write_bytes(folder / "README.md", text.encode())


def _requirements() -> list[str]:
    """What this installation of autoseg requires, extras left out."""
    try:
        found = requires("autoseg") or []
    except PackageNotFoundError:  # run from a source folder
        found = ["torch", "SimpleITK", "numpy", "scipy", "scikit-image", "blosc2", "pydantic", "safetensors"]
    return [line for line in found if "extra ==" not in line]
