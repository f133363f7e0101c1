"""What the documents name is there: links, scripts, commands and their flags."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import typer

from rlkv.cli.main import LazyGroup, app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "third_party/*.md", "patches/*/*.md", "rlkv/models/*/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"rlkv|python3?|scripts/\w.*")
ANY_FLAG = {"serve"}
"""Commands that pass unknown flags on."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(path: Path) -> list[list[str]]:
    """Words of the commands in a document's code, lines that end in a backslash joined."""
    text = path.read_text().replace("\\\n", " ")
    found = []
    for line in re.findall(r"^ {4,}(.*)$", text, re.MULTILINE):
        words = shlex.split(line.partition(" #")[0].replace("'", "").replace('"', ""))
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if words and COMMAND.fullmatch(words[0]):
            found.append(words)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_and_their_flags_exist(path: Path) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    for words in commands(path):
        if words[0].startswith("scripts/"):
            script = ROOT / words[0]
            assert os.access(script, os.X_OK), words
            assert script.read_text().startswith("#!"), words
        elif words[0].startswith("python") and words[1].startswith("scripts/"):
            assert (ROOT / words[1]).exists(), words
        elif words[0] == "rlkv":
            check_flags(group, words[1:])


def check_flags(group: LazyGroup, words: list[str]) -> None:
    context = typer.Context(group)
    name, command, rest = group.resolve_command(context, words)
    while isinstance(command, typer.core.TyperGroup):
        name, command, rest = command.resolve_command(context, rest)
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        flag = word.partition("=")[0]
        if flag.startswith("--") and name not in ANY_FLAG:
            assert flag in known | {"--help"}, f"rlkv {' '.join(words)}: {flag}"
