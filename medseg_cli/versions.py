"""Versions of medseg and of what decides its results, found without importing any of it."""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata, util
from pathlib import Path

LIBRARIES = ("torch", "triton", "monai", "numpy", "nibabel", "SimpleITK", "pydicom", "safetensors")


def versions() -> dict[str, str | None]:
    """medseg, Python and the libraries that decide the result, by name; None where one is not installed.

    Nothing is imported for it.
    """
    found: dict[str, str | None] = {"medseg": version("medseg-cli"), "python": platform.python_version()}
    for name in LIBRARIES:
        found[name.lower()] = version(name)
    found["cuda"] = cuda_version()
    return found


def version(distribution: str) -> str | None:
    """Version of an installed distribution; what an imported module says of itself counts more."""
    module = sys.modules.get("medseg_cli" if distribution == "medseg-cli" else distribution.lower())
    own = getattr(module, "__version__", None)
    if isinstance(own, str):  # torch: "2.10.0+cu128" where its metadata may say "2.10.0"
        return own
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def cuda_version() -> str | None:
    """CUDA version that torch was built for, read from its `version.py` without importing it; None for CPU builds."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).with_name("version.py")
    if not source.is_file():
        return None
    found = re.search(
        r"^cuda(?:\s*:[^=]*)?\s*=\s*['\"]([^'\"]+)['\"]", source.read_text(encoding="utf-8"), re.MULTILINE
    )
    return found[1] if found else None
