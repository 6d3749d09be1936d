"""Imports go down only; every file is read as text, nothing is imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "autoseg"
TOOLS = {"core": set(), "io": {"core"}, "ops": {"core"}, "nets": {"core", "ops"}}
STAGES = ("fingerprinting", "planning", "preprocessing", "training", "prediction", "evaluation", "refinement",
          "reporting", "submission")  # fmt: skip
ALLOWED = {
    **TOOLS,
    **{stage: set(TOOLS) for stage in STAGES},
    "phantoms": {"core", "phantom_anatomy"},
    "phantom_anatomy": {"core"},
}
ALLOWED["pipeline"] = {*TOOLS, *STAGES}
ALLOWED["aftercare"] = {*TOOLS, *STAGES, "pipeline"}
ALLOWED["cli"] = {*ALLOWED}
HEAVY = {
    "torch",
    "SimpleITK",
    "scipy",
    "skimage",
    "matplotlib",
    "blosc2",
    "batchgenerators",
    "acvl_utils",
    "safetensors",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "autoseg" else {node.module}
            )
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("autoseg.")}
    assert rooms - {here, "__version__"} <= ALLOWED[here], f"{path} may not import these rooms"


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in ("core", "cli", "planning")], ids=lambda p: p.name)
def test_core_planning_and_cli_import_nothing_heavy(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path, top_level_only=True)} & HEAVY


def test_every_room_is_known() -> None:
    assert {room(path) for path in FILES} - {"__init__", "__main__"} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_cli_prints_and_reads_the_environment(path: Path) -> None:
    if room(path) in ("cli", "__main__"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") != "print", f"{path}:{node.lineno} prints"
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and room(path) != "core":
            raise AssertionError(f"{path}:{node.lineno} reads the environment")
