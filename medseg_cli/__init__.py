"""medseg: segment medical scans from the command line and from Python."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Box": "medseg_cli.prompt",
    "Click": "medseg_cli.prompt",
    "Prompt": "medseg_cli.prompt",
    "Target": "medseg_cli.prompt",
    "load_model": "medseg_cli.models",
    "load_scan": "medseg_cli.readers",
}


def __getattr__(name: str) -> Any:
    """What is public is imported on first use, so that `import medseg_cli` costs nothing."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medseg_cli' has no attribute '{name}'")
