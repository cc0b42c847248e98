"""Presets: everything a run needs besides the scan and the clicks, as validated data in one YAML file.

A preset names its pipeline, model configuration, weights, preprocessing, prompts, labels, post-processing. It is read
from the shipped `presets/`, from the user's folder (`user_folder()`), from a YAML path, or from a folder that holds
`preset.yaml` (what training writes). Reading one imports neither torch nor monai.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from medseg_cli.errors import ModelError
from medseg_cli.preset_format import OWN_ERRORS, UNION_TAGS, Preset
from medseg_cli.preset_yaml import read_yaml

__all__ = ["Preset", "dump", "find", "load", "locations", "names", "schema", "shipped_folder", "user_folder"]

RUN_FILE = "preset.yaml"
_HERE = Path(__file__).resolve().parent


def shipped_folder() -> Path:
    """The presets that come with medseg: package data of a wheel, `presets/` of a checkout or an editable install."""
    return next(p for p in (_HERE / "presets", _HERE.parent / "presets") if p.is_dir())


def user_folder() -> Path:
    """Where a user's own presets are looked for: `$MEDSEG_HOME/presets` or the platform's configuration folder."""
    home = os.environ.get("MEDSEG_HOME")
    if home:
        return Path(home).expanduser() / "presets"
    from platformdirs import user_config_path

    return user_config_path("medseg", appauthor=False) / "presets"


def locations() -> dict[str, Path]:
    """Name -> YAML of every shipped and user preset, by name; a user's preset hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in (shipped_folder(), user_folder()):
        if folder.is_dir():
            found.update({path.stem: path for path in folder.glob("*.yaml")})
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """Names of all presets, sorted; the files are not read."""
    return tuple(locations())


def find(name_or_path: str | os.PathLike[str]) -> Preset:
    """The preset with that name, in that YAML file, or in that folder's `preset.yaml`.

    Raises:
        ModelError: no such preset (lists the names and the closest one), or the file is not a valid preset.
    """
    known = locations()
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if text in known:
        preset = load(known[text])
        if preset.name != text:
            raise ModelError(f"{known[text]}: name is '{preset.name}'", f"name it '{text}', as its file is called")
        return preset
    if path.is_dir():
        if (path / RUN_FILE).is_file():
            return load(path / RUN_FILE)
        raise ModelError(f"{path} holds no {RUN_FILE}", "give a preset's name, its YAML file, or a folder with one")
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return load(path)
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    raise ModelError(
        f"no preset is called '{text}'" + (f" (did you mean '{close[0]}'?)" if close else ""),
        f"presets: {', '.join(known) or 'none'}; or give the path of a YAML file",
    )


def load(path: Path) -> Preset:
    """Read and validate one YAML file.

    Raises:
        ModelError: unreadable, unsafe or invalid; names file, key and what is allowed there.
    """
    data = read_yaml(path)
    try:
        preset = Preset.model_validate(data)
    except ValidationError as error:
        raise ModelError(f"{path}: {_first(error)}", "the format is described in docs/presets.md") from error
    preset._path = path.resolve()
    preset._read = preset.model_dump(mode="json")
    return preset


def dump(preset: Preset) -> str:
    """The preset as YAML text; `load` of it gives the same preset."""
    return yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def with_absolute_weights(preset: Preset) -> Preset:
    """The preset with the weights beside it named by their absolute path; unchanged when they are in the store."""
    if preset.weights is None or preset.weights_file is None:
        return preset
    folder = preset.weights_file.parent if preset.path is None else preset.path.parent
    members = getattr(preset.weights, "members", ())
    absolute = [each.model_copy(update={"file": str((folder / each.file).resolve())}) for each in members]
    moved = preset.weights.model_copy(update={"file": str(preset.weights_file.resolve()), "members": tuple(absolute)})
    return preset.model_copy(update={"weights": moved})


def schema() -> dict[str, Any]:
    """JSON schema of the format, for editors and checks in other languages."""
    return Preset.model_json_schema()


def _first(error: ValidationError) -> str:
    """The first of a validation's errors as `key: what is wrong`, and how many more there are."""
    first, *rest = error.errors()
    key = ""
    for part in first["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part not in UNION_TAGS:
            key += f".{part}" if key else part
    message = first["msg"]
    if first["type"] == "missing":
        message = "is required"
    elif first["type"] not in OWN_ERRORS:
        message = f"{message[0].lower()}{message[1:]}, got {_short(first['input'])}"
    more = f" (and {len(rest)} more)" if rest else ""
    return " ".join(f"{key + ': ' if key else ''}{message}{more}".split())


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
