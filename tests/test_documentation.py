"""What the documentation says is run or looked up: code, commands, options, keys, links."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from autoseg.core.dataset import DatasetJson
from autoseg.core.fingerprint import Fingerprint, Intensities, LabelStatistics, Seen, SeenIntensities
from autoseg.core.model_card import CardScores, FileFacts, ModelCard
from autoseg.core.plan import Configuration, Model, NetworkSpec, Plan
from autoseg.core.recipe import RECIPES, Recipe
from autoseg.core.scores import Equity, Group, LabelScores, Scores, Summary
from autoseg.core.splits import Split
from autoseg.core.strategy import Change, Comparison, Honest, Member, Step, Strategy, Trial
from autoseg.core.trust import Agreements, CaseTrust, ExpectedDice, LabelCalibration, Trust, TrustQuality
from autoseg.submission import Challenge

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "documentation").rglob("*.md"))]
NO_COMMANDS = {"autoseg_version", "autoseg_workspace", "autoseg_demo_output"}  # a key, and two folders
FORMATS = REPOSITORY / "documentation" / "data_format.md"
RECORDS = (
    *(DatasetJson, Split, Fingerprint, Intensities, LabelStatistics, Plan, Configuration, NetworkSpec, Model),
    *(
        Recipe,
        Scores,
        LabelScores,
        Summary,
        Group,
        Equity,
        Strategy,
        Step,
        Trial,
        Change,
        Comparison,
        Honest,
        Member,
        Challenge,
    ),
    *(Seen, SeenIntensities, ModelCard, CardScores, FileFacts),
    *(Trust, LabelCalibration, TrustQuality, Agreements, CaseTrust, ExpectedDice),
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))


def blocks(text: str) -> Iterator[tuple[str, int, str]]:
    """(language, number of its first line, content) of every fenced block."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield match[1], text[: match.start(2)].count("\n") + 1, match[2]


def spans(text: str) -> list[str]:
    """Inline code outside fenced blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def code(text: str) -> list[str]:
    """Every line of shell or plain text blocks, and every inline code span."""
    bodies = [body for language, _, body in blocks(text) if language in ("", "bash", "text")]
    return [*"".join(bodies).splitlines(), *spans(text)]


@cache
def commands() -> dict[str, str]:
    """The console scripts of pyproject.toml: name -> module."""
    section = (REPOSITORY / "pyproject.toml").read_text().split("[project.scripts]")[1].split("\n[")[0]
    return dict(re.findall(r'^(\w+) = "([\w.]+):main"$', section, flags=re.MULTILINE))


@pytest.fixture
def options(capsys: pytest.CaptureFixture[str]) -> dict[str, set[str]]:
    """The long options in every command's --help."""
    found = {}
    for name, module in commands().items():
        if name != "autoseg":
            with pytest.raises(SystemExit):
                importlib.import_module(module).main(["--help"])
            found[name] = set(re.findall(r"--\w+", capsys.readouterr().out))
    return found


@pytest.mark.slow
def test_code_of_extending_runs(tmp_path: Path) -> None:
    text = (REPOSITORY / "documentation" / "extending.md").read_text()
    parts = [(first, body) for language, first, body in blocks(text) if language == "python"]
    assert len(parts) >= 6
    lines: list[str] = []
    for first, body in parts:  # on the same lines as in the page, so that a traceback tells them
        lines += [""] * (first - 1 - len(lines)) + body.splitlines()
    script = tmp_path / "extending.py"
    script.write_text("\n".join(lines) + "\n")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, script.name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "longer_quick.json").is_file()


@each_page
def test_named_commands_exist(page: Path) -> None:
    named = set(re.findall(r"\bautoseg_[a-z][a-z_]*", page.read_text())) - NO_COMMANDS
    assert not {name.rstrip("_") for name in named} - commands().keys()


@each_page
def test_named_options_exist(page: Path, options: dict[str, set[str]]) -> None:
    anywhere = set().union(*options.values())
    for line in code(page.read_text()):
        if line.startswith("--"):
            assert set(re.findall(r"--\w+", line)) <= anywhere, line
        for call in re.split(r"[|;]|&&|#", line):
            names = [name for name in re.findall(r"\bautoseg_[a-z_]+", call) if name in options]
            if names:
                unknown = set(re.findall(r"(?<!\S)--\w+", call)) - options[names[0]]
                assert not unknown, f"{names[0]} has no {', '.join(sorted(unknown))}: {line}"


def test_every_command_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert not {name for name in commands() if not re.search(rf"\b{name}\b", text)}


def test_every_key_of_the_files_is_documented() -> None:
    named = spans(FORMATS.read_text())
    quoted = set(re.findall(r'"(\w+)"', " ".join(named)))
    keys = {f"{record.__name__}.{key}" for record in RECORDS for key in record.model_fields}
    assert not {key for key in keys if key.split(".")[1] not in quoted.union(named)}


def test_table_of_recipes_has_the_true_values() -> None:
    section = FORMATS.read_text().split("\n## Recipe")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines]
    default, quick = Recipe(), RECIPES["quick"]
    assert [key.strip("`") for key, _, _ in rows] == list(Recipe.model_fields)
    for name, default_text, quick_text in rows:
        key = name.strip("`")
        true = getattr(default, key)
        assert _same(default_text, true), f"{key}: {default_text} is not {true}"
        assert _same(quick_text or default_text, getattr(quick, key)), f"{key} of quick: {quick_text}"


def _same(text: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return text == {None: "null", True: "true", False: "false"}[value]  # type: ignore[index]
    return text == str(value) if isinstance(value, (str, dict)) else float(text) == value


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            assert anchor in {_slug(heading) for heading in headings}, f"{target}: no such heading"


def _slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
