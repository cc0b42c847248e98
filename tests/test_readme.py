"""The README says what is so: every command is in it, every command line in it is real, and its blocks run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, medseg_env

from medseg_cli import app

PAGES = (
    "README.md",
    "docs/README.md",
    "docs/contributing.md",
    "medseg_cli/README.md",
    "kernels/README.md",
    "presets/README.md",
)
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<kind>sh|python)\n(?P<code>.*?)```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)#]+)\)")
# Reads no scan and no network: these run in every `make test`, the rest when slow tests do.
CHEAP = ("--version", "presets list", "presets show", "presets path", "weights list")


@dataclass(frozen=True)
class Block:
    """A fenced block: sh or python, and why it cannot be run here, if it cannot."""

    kind: str
    code: str
    reason: str


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [Block(m["kind"], m["code"], m["reason"] or "") for m in BLOCK.finditer(text)]


def command_lines() -> list[str]:
    """What follows `medseg` in every sh block."""
    lines = [line for block in blocks() if block.kind == "sh" for line in block.code.splitlines()]
    return [line.removeprefix("medseg ") for line in lines if line.startswith("medseg ")]


def commands() -> list[str]:
    """Every command and subcommand of the command line, as it is registered."""
    import importlib

    found = list(app.COMMANDS)
    for group in app.GROUPS:
        members = importlib.import_module(f"medseg_cli.commands.{group}").app.registered_commands
        found += [f"{group} {each.name or each.callback.__name__.rstrip('_').replace('_', '-')}" for each in members]
    return found


def help_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert app.main([*argv, "--help"]) == 0, f"no such command: medseg {' '.join(argv)}"
    return capsys.readouterr().out


@pytest.mark.parametrize("command", commands())
def test_every_command_is_in_the_readme(command: str):
    lines = command_lines()
    assert any(line == command or line.startswith(command + " ") for line in lines), f"README: no `medseg {command}`"


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_is_real(line: str, capsys: pytest.CaptureFixture[str]):
    """Command, subcommand and options exist; whether they work is for the tests of the commands."""
    words = shlex.split(line, comments=True)
    known = next((each for each in commands() if line == each or line.startswith(each + " ")), "")
    assert known or words[0].startswith("--"), f"no such command: medseg {line}"
    text = help_of(known.split(), capsys)
    missing = [word for word in words if re.fullmatch(r"-[a-z]|--[a-z-]+", word) and word not in text.split()]
    assert [word for word in missing if not re.search(rf"{re.escape(word)}\b", text)] == []


@pytest.mark.parametrize("line", [line for line in command_lines() if line.startswith(CHEAP)])
def test_cheap_command_lines_end_well(line: str, capsys: pytest.CaptureFixture[str]):
    assert app.main(shlex.split(line)) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_blocks_run_in_order(tmp_path: Path, medseg_home: Path):
    """As a reader would: one folder, one block after the other, nothing skipped but what says why."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, call in (("medseg", "-m medseg_cli"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (tools / name).chmod(0o755)
    env = medseg_env(medseg_home, {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"})
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")  # a reader stands in a clone
    for block in blocks():
        if block.reason:
            continue
        command = ["sh", "-e", "-c", block.code] if block.kind == "sh" else [sys.executable, "-c", block.code]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
    for mask in ("left", "right", "both"):
        assert {path.name for path in folder.glob(f"{mask}.*")} == {f"{mask}.nii.gz", f"{mask}.json", f"{mask}.png"}
    assert {path.name for path in folder.glob("lungs*")} == {"lungs.png", "lungs.json", "lungs_preview.png"}


def test_the_readme_has_blocks_and_most_of_them_run():
    found = blocks()
    assert len(found) >= 8
    assert sum(bool(block.reason) for block in found) < len(found) / 2


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    path = ROOT / page
    targets = [m["target"] for m in LINK.finditer(path.read_text(encoding="utf-8"))]
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


def test_make_targets_in_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert len(re.findall(r"^[a-z-]+:.*##", makefile, re.MULTILINE)) <= 12
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    used = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", text, re.MULTILINE))
    assert {a or b for a, b in used} <= targets


def test_the_architecture_page_shows_the_layers_as_they_are():
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    page = (ROOT / "medseg_cli" / "README.md").read_text(encoding="utf-8")
    layers = [row.replace("(", "").replace(")", "") for row in contracts[0]["layers"]]
    assert "\n".join(layers) in page
