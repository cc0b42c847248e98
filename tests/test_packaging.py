"""The distribution: complete, named right, and declaring what it imports."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

# Import names that are spelled unlike their distribution.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cc3d": "connected-components-3d",
    "open_clip": "open_clip_torch",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
}
# segment-anything imports it without declaring it; no code of ours does.
INDIRECT = {"torchvision"}
# Imported by name, because it may be absent.
NAMED = {"triton"}
# Plug-ins that pydicom finds by itself.
PLUGINS = {"pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of the working tree, built by setuptools in a copy: no network, nothing left behind."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "medseg_cli", "kernels", "presets"):
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, copy)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(copy / "dist" / done.stdout.split()[-1])


def modules(root: Path) -> list[Path]:
    return sorted([*(root / "medseg_cli").rglob("*.py"), *(root / "kernels" / "medseg_kernels").rglob("*.py")])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_on_disk_is_listed(root: Path, project: dict[str, Any]):
    setuptools = project["tool"]["setuptools"]
    folders = {path.parent.relative_to(root) for path in modules(root)}
    on_disk = {".".join(part for part in folder.parts if part != "kernels") for folder in folders}
    assert set(setuptools["packages"]) == on_disk | {"medseg_cli.presets"}


def test_every_package_has_an_init(root: Path):
    folders = {path.parent for path in modules(root)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_import_is_declared_and_every_declaration_imported(root: Path, project: dict[str, Any]):
    declared = requirements(project["project"]["dependencies"])
    optional = requirements(line for lines in project["project"]["optional-dependencies"].values() for line in lines)
    third_party = third_party_imports(root)
    # A requirement of a requirement is not a declaration.
    assert third_party - declared - optional == set(), "imported, not declared"
    assert declared - third_party - INDIRECT - NAMED - PLUGINS == set(), "declared, never imported"


def requirements(lines: Iterable[str]) -> set[str]:
    """Names of distributions in requirement lines."""
    return {normal(found.group()) for line in lines if (found := re.match(r"[\w.-]+", line))}


def third_party_imports(root: Path) -> set[str]:
    """Distributions of all imported names, including those that are imported by name in a string table."""
    names: set[str] = set()
    for path in modules(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    names -= sys.stdlib_module_names | {"medseg_cli", "medseg_kernels"}
    return {normal(DISTRIBUTIONS.get(name, name)) for name in names}


@pytest.mark.parametrize("folder", ["kernels", "tests", "tests/kernels", "presets"])
def test_no_init_that_would_shadow_hugging_faces_kernels(root: Path, folder: str):
    """transformers imports `kernels` when it finds a regular package of that name; a namespace it leaves alone."""
    assert not (root / folder / "__init__.py").exists()


def test_wheel_owns_two_names_and_not_kernels(wheel: zipfile.ZipFile):
    top_level = next(name for name in wheel.namelist() if name.endswith("top_level.txt"))
    assert set(wheel.read(top_level).decode().split()) == {"medseg_cli", "medseg_kernels"}
    folders = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"medseg_cli", "medseg_kernels"}


def test_wheel_holds_every_module_preset_and_weight(root: Path, wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    expected = {str(path.relative_to(root)).removeprefix("kernels/") for path in modules(root)}
    expected |= {"medseg_cli/py.typed", "medseg_kernels/py.typed"}
    for pattern in ("*.yaml", "weights/*.safetensors", "weights/*.md"):
        found = {f"medseg_cli/{path.relative_to(root)}" for path in (root / "presets").glob(pattern)}
        assert found, f"the repository has no presets/{pattern}"
        expected |= found
    assert expected - names == set()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_metadata(wheel: zipfile.ZipFile):
    text = wheel.read(next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))).decode()
    assert "Name: medseg-cli\n" in text
    assert "Requires-Python: <3.14,>=3.11\n" in text
    assert re.search(r"^Requires-Dist: triton; platform_system == .Linux.$", text, re.MULTILINE)
    entry = wheel.read(next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))).decode()
    assert "medseg = medseg_cli.app:main" in entry


def test_version_is_stated_once(root: Path, project: dict[str, Any]):
    """`medseg --version` and the metadata of an installation must not drift apart."""
    from medseg_cli import __version__

    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "medseg_cli.__version__"}
    assert f"## [{__version__}]" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_python_m_works_from_the_repository(root: Path, run_medseg):
    """There ./kernels lies on sys.path; nothing may take it for Hugging Face's package."""
    done = run_medseg("--help", cwd=root)
    assert done.rc == 0, done.stderr
    assert "segment" in done.stdout


def test_gpl_stays_out_of_the_default_installation(project: dict[str, Any]):
    """pylibjpeg-libjpeg is GPL-3.0: an extra for those who want it, never pulled in by us."""
    assert not any("libjpeg>" in line and "pylibjpeg-libjpeg" in line for line in project["project"]["dependencies"])
    assert "pylibjpeg-libjpeg" in " ".join(project["project"]["optional-dependencies"]["libjpeg"])


def test_no_dependency_is_a_direct_reference(project: dict[str, Any]):
    """`pip install medseg-cli` must work from a plain package index."""
    extras = project["project"]["optional-dependencies"].values()
    lines = [*project["project"]["dependencies"], *(line for extra in extras for line in extra)]
    assert [line for line in lines if "@" in line or "://" in line] == []


def test_installed_requirements_are_new_enough(project: dict[str, Any]):
    """The suite runs on versions that the lower bounds admit."""
    from packaging.requirements import Requirement

    for line in project["project"]["dependencies"]:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            installed = metadata.version(requirement.name)
            assert requirement.specifier.contains(installed, prereleases=True), f"{line}: {installed}"
