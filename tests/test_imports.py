"""What may be imported where: the command line starts without heavy libraries, and the layers hold."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch", "torchvision", "triton", "monai", "lightning_fabric", "transformers", "open_clip", "segment_anything",
    "SimpleITK", "nibabel", "pydicom", "scipy", "numpy", "PIL", "httpx", "kernels",
}  # fmt: skip


def python(root: Path, code: str) -> str:
    """stdout of `code` run in a fresh interpreter on the checkout."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")])}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("argv", [["--help"], ["segment", "--help"], ["presets", "--help"], ["doctor", "--help"]])
def test_help_imports_nothing_heavy(root: Path, argv: list[str]):
    code = (
        "import contextlib, json, sys\n"
        "from medseg_cli.app import main\n"
        "with contextlib.redirect_stdout(sys.stderr):\n"
        f"    assert main({argv!r}) == 0\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    loaded = set(json.loads(python(root, code).splitlines()[-1]))
    assert "typer" in loaded, "the probe saw no command line at all"
    assert loaded & HEAVY == set()


def test_version_asks_the_metadata_not_the_libraries(root: Path):
    code = "import sys; from medseg_cli.app import main; main(['--version']); print('torch' in sys.modules)"
    assert python(root, code).splitlines()[-1] == "False"


def test_reading_presets_needs_no_torch(root: Path):
    code = (
        "import sys; from medseg_cli import preset, pipelines\n"
        "[preset.find(name) for name in preset.names()]; assert preset.names() and pipelines.PIPELINES\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    assert set(python(root, code).split()) & {"torch", "monai", "triton", "SimpleITK", "nibabel", "pydicom"} == set()


def test_kernels_import_torch_and_triton_only(root: Path):
    """A bare GPU machine runs them: the standard library, torch, triton and themselves, nothing else."""
    allowed = sys.stdlib_module_names | {"torch", "triton", "medseg_kernels"}
    found = {
        (path.name, name)
        for path in (root / "kernels" / "medseg_kernels").rglob("*.py")
        for name in imported(path)
        if name not in allowed
    }
    assert found == set()


def test_layers_hold(root: Path):
    """The contracts in pyproject.toml, as `make lint` checks them."""
    done = lint_imports(root)
    assert done.returncode == 0, done.stdout


def test_a_planted_violation_is_caught(root: Path, tmp_path: Path):
    """errors is the lowest module: it must not know scan. The contracts would be worth nothing if this passed."""
    for name in ("pyproject.toml", "medseg_cli", "kernels"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, tmp_path / name)
    errors = tmp_path / "medseg_cli" / "errors.py"
    errors.write_text(errors.read_text() + "\n\nfrom medseg_cli import scan  # noqa: E402, F401\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "medseg_cli.errors is not allowed to import medseg_cli.scan" in " ".join(done.stdout.split())


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(folder / "kernels")]), "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def imported(path: Path) -> set[str]:
    """Top-level names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def compared_pipelines(source: str) -> list[int]:
    """Lines on which a preset's pipeline is compared with a name that is written there."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            asked = any(isinstance(side, ast.Attribute) and side.attr == "pipeline" for side in sides)
            lines += [node.lineno] if asked and any(isinstance(side, ast.Constant) for side in sides) else []
    return lines


def test_pipelines_are_asked_what_they_can_and_not_who_they_are(root: Path):
    """Else the next one would have to be named in every command; `pipelines.Entry` says what it can."""
    assert compared_pipelines('if base.pipeline != "cc-sam": pass') == [1]
    for path in (root / "medseg_cli").rglob("*.py"):
        assert compared_pipelines(path.read_text(encoding="utf-8")) == [], path
