"""Model files: a folder or a zip of plans, weights and a card with the hash of every file. Nothing in it can run."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from autoseg.core.errors import DataError, refuse_file
from autoseg.core.files import read_json, unsafe_name, whole_file, write_bytes
from autoseg.core.model_card import FileFacts, ModelCard
from autoseg.core.records import parse

CARD, TEXT = "card.json", "README.md"
# All that a model consists of; a file of another name is refused.
MEMBER = re.compile(
    r"README\.md|[^/]+__[^/]+/(model\.json|trust\.json|"
    r"fold_([0-9]+|all)/(weights\.safetensors|features\.safetensors|recipe\.json))",
    re.ASCII,
)
LARGEST_CARD = 1 << 24
PIECE = 1 << 20
SAME_DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that equal models give equal files
AGAIN = "get the file again from where it comes from"


def seal(folder: Path, card: ModelCard) -> ModelCard:
    """Write card.json and README.md into a model folder; returns the card with all files in it."""
    write_bytes(folder / TEXT, card.text.encode())
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != CARD)
    assert all(MEMBER.fullmatch(name) for name in names), names
    whole = card.with_changes(files={name: file_facts(folder / name) for name in names})
    whole.write(folder / CARD)
    return whole


def pack(folder: Path, path: Path) -> None:
    """Pack a sealed model folder into a zip, whole or not at all; weights do not compress, so nothing is."""
    card = read_card(folder / CARD)
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in (CARD, *card.files):
            info = zipfile.ZipInfo(name, SAME_DATE)
            info.external_attr = 0o644 << 16
            with open(folder / name, "rb") as source, archive.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, PIECE)


def unpack(path: Path, folder: Path) -> ModelCard:
    """Extract a model file into an empty folder, checking every name, size and hash.

    Raises:
        DataError: the file is no model file, is damaged, or holds anything that its card does not list.
    """
    with _opened(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if CARD not in names:
            refuse_file(
                path, f"holds no {CARD}: it is no model file of autoseg", "give what autoseg_export_model wrote"
            )
        for member in members:
            if found := _defect(member):
                refuse_file(path, f"its member {member.filename!a} {found}; nothing was extracted", AGAIN)
        if len({*names}) < len(names):
            refuse_file(path, "holds a member twice; nothing was extracted", AGAIN)
        info = archive.getinfo(CARD)
        if info.file_size > LARGEST_CARD:
            refuse_file(path, f"its card has {info.file_size} bytes; nothing was extracted", AGAIN)
        with archive.open(info) as stream:
            write_bytes(folder / CARD, stream.read(LARGEST_CARD))
        card = read_card(folder / CARD, source=f"{path}: {CARD}")
        if strangers := sorted({*names} ^ {CARD, *card.files}):
            what = "is not in its card" if strangers[0] in names else "is missing"
            refuse_file(path, f"{strangers[0]!a} {what}; nothing was extracted", AGAIN)
        for name, facts in card.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, open(target, "wb") as stream:
                if _copy(source, stream, most=facts.size) != facts:
                    refuse_file(path, f"{name} is not what its card says: it was damaged or changed", AGAIN)
    return card


def check(folder: Path) -> ModelCard:
    """Check every size and hash of a model folder. Raises DataError naming what differs."""
    card = read_card(folder / CARD)
    for name, facts in card.files.items():
        if not (folder / name).is_file() or file_facts(folder / name) != facts:
            refuse_file(folder / name, "is missing or not what the card says: it was damaged or changed", AGAIN)
    return card


def read_card(path: Path, *, source: str = "") -> ModelCard:
    """Read card.json. Raises DataError where it is wrong or lists files that a model does not have."""
    card = parse(ModelCard, read_json(path), source=source or path)
    for name in card.files:
        if found := _defect_of_name(name):
            refuse_file(path, f"lists {name!a}, which {found}", AGAIN)
    for name in card.configurations:
        if f"{name}/model.json" not in card.files:
            refuse_file(path, f"names {name!a}, which it does not hold", AGAIN)
    return card


def _defect(member: zipfile.ZipInfo) -> str:
    """Why a member of an archive is refused; empty when it is not."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or something else that is no plain file"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type != zipfile.ZIP_STORED:
        return "is compressed, which members of a model file never are"
    return "" if member.filename == CARD else _defect_of_name(member.filename)


def _defect_of_name(name: str) -> str:
    for part in name.split("/"):
        if found := unsafe_name(part):
            return f"has a name that {found}" if part else "has an absolute or empty path"
    return "" if MEMBER.fullmatch(name) else "is nothing that a model consists of"


def file_facts(path: Path) -> FileFacts:
    """Size and SHA-256 of a file."""
    with open(path, "rb") as stream:
        return _copy(stream, None, most=path.stat().st_size)


def _copy(source: IO[bytes], target: IO[bytes] | None, *, most: int) -> FileFacts:
    """Copy at most `most` bytes and one; returns what was copied."""
    digest, size = hashlib.sha256(), 0
    while size <= most and (piece := source.read(min(PIECE, most + 1 - size))):
        digest.update(piece)
        size += len(piece)
        if target is not None:
            target.write(piece)
    return FileFacts(size=size, sha256=digest.hexdigest())


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DataError:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OverflowError, ValueError) as error:
        refuse_file(path, f"is no intact zip file ({error})", AGAIN)
    except OSError as error:
        refuse_file(path, f"cannot be read, or its content not written ({error.strerror})", "check path and disk")
