"""Model files: what goes in comes out, and nothing else gets out of them."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoseg.core.errors import DataError
from autoseg.core.model_card import ModelCard
from autoseg.io import model_file
from autoseg.io.weights import save_weights

NAME = "default__3d_fullres"
WEIGHTS = f"{NAME}/fold_0/weights.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed model folder."""
    folder = tmp_path / "model"
    (folder / NAME).mkdir(parents=True)
    (folder / NAME / "model.json").write_text("{}")
    save_weights(folder / WEIGHTS, {"w": torch.arange(5.0)}, facts={})
    card = ModelCard(
        name="Liver | test",
        origin="autoseg",
        autoseg_version="0",
        created="2026-01-01",
        configurations=[NAME],
        dataset="Dataset001_Liver",
        channel_names=["CT"],
        labels={"background": 0, "liver": 1},
    )
    model_file.seal(folder, card)
    return folder


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.zip"
    model_file.pack(folder, path)
    return path


def empty(tmp_path: Path) -> Path:
    target = tmp_path / "inner" / "out"
    target.mkdir(parents=True)
    return target


def rewritten(packed: Path, change: Callable[[list[tuple[zipfile.ZipInfo, bytes]]], None]) -> Path:
    """A copy of the archive whose members were changed."""
    with zipfile.ZipFile(packed) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    change(members)
    path = packed.with_name("changed.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members:
            archive.writestr(info, content)
    return path


def test_a_model_survives_packing(packed: Path, folder: Path, tmp_path: Path) -> None:
    target = empty(tmp_path)
    card = model_file.unpack(packed, target)
    assert card == model_file.check(folder) == model_file.check(target)
    for name in (*card.files, "card.json"):
        assert (target / name).read_bytes() == (folder / name).read_bytes()
    assert "liver" in (target / "README.md").read_text()


def test_the_same_model_gives_the_same_bytes(packed: Path, folder: Path, tmp_path: Path) -> None:
    model_file.pack(folder, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "../../default__3d_fullres/model.json",
        "/tmp/evil.txt",
        "C:\\evil.txt",
        "..\\evil.txt",
        f"{NAME}/../../evil",
        f"{NAME}/fold_0/evil.pkl",
        f"{NAME}/fold_0/./weights.safetensors",
        f"{NAME}/fold_0/",
        "evil.py",
        ".hidden__x/model.json",
        f"{NAME}/fold_0/weights.safetensors\x00.txt",
    ],
)
def test_hostile_members_are_refused_and_nothing_is_written(packed: Path, tmp_path: Path, name: str) -> None:
    path = rewritten(packed, lambda members: members.append((zipfile.ZipInfo(name), b"evil")))
    target = empty(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="nothing was extracted"):
        model_file.unpack(path, target)
    assert sorted(p for p in tmp_path.rglob("*") if p != target / "card.json") == before


def test_a_link_is_refused(packed: Path, tmp_path: Path) -> None:
    def link(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        info = next(info for info, _ in members if info.filename == WEIGHTS)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    with pytest.raises(DataError, match="link"):
        model_file.unpack(rewritten(packed, link), empty(tmp_path))


def test_a_listed_hostile_name_is_refused_too(packed: Path, tmp_path: Path) -> None:
    def listed(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        for i, (info, content) in enumerate(members):
            if info.filename == "card.json":
                card = json.loads(content)
                card["files"]["../evil.txt"] = {"size": 4, "sha256": "0" * 64}
                members[i] = (info, json.dumps(card).encode())

    with pytest.raises(DataError, match=r"\.\./evil|'\.\.'"):
        model_file.unpack(rewritten(packed, listed), empty(tmp_path))


def test_a_changed_file_is_noticed(packed: Path, folder: Path, tmp_path: Path) -> None:
    def changed(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        for i, (info, content) in enumerate(members):
            if info.filename == WEIGHTS:
                members[i] = (info, content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(DataError, match="damaged or changed"):
        model_file.unpack(rewritten(packed, changed), empty(tmp_path))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged or changed"):
        model_file.check(folder)


def test_a_bomb_is_not_unpacked(packed: Path, tmp_path: Path) -> None:
    def bomb(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        for i, (info, _) in enumerate(members):
            if info.filename == WEIGHTS:
                info.compress_type = zipfile.ZIP_DEFLATED
                members[i] = (info, bytes(50_000_000))

    target = empty(tmp_path)
    with pytest.raises(DataError, match="compressed"):
        model_file.unpack(rewritten(packed, bomb), target)
    assert not list(target.iterdir())


def test_a_larger_file_than_the_card_says_is_not_written(packed: Path, tmp_path: Path) -> None:
    def larger(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        for i, (info, content) in enumerate(members):
            if info.filename == WEIGHTS:
                members[i] = (info, content + bytes(5_000_000))

    target = empty(tmp_path)
    with pytest.raises(DataError, match="damaged or changed"):
        model_file.unpack(rewritten(packed, larger), target)
    assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) < 3_000_000


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(packed: Path, tmp_path: Path, keep: float) -> None:
    content = packed.read_bytes()
    packed.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(DataError):
        model_file.unpack(packed, empty(tmp_path))


def test_missing_and_doubled_members_are_refused(packed: Path, tmp_path: Path) -> None:
    def without(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        members[:] = [pair for pair in members if pair[0].filename != WEIGHTS]

    with pytest.raises(DataError, match="missing"):
        model_file.unpack(rewritten(packed, without), empty(tmp_path))
    with pytest.warns(UserWarning, match="Duplicate"):
        doubled = rewritten(packed, lambda members: members.append(members[-1]))
    with pytest.raises(DataError, match="twice"):
        model_file.unpack(doubled, tmp_path / "inner" / "out")


def test_a_foreign_zip_is_no_model(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("plans.json", "{}")
    with pytest.raises(DataError, match=r"card\.json"):
        model_file.unpack(tmp_path / "a.zip", empty(tmp_path))
