"""The weights that a training began with: how its result names them, and how they are found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medseg_cli.errors import ModelError
from medseg_cli.preset import Preset
from medseg_cli.preset_weights import BaseWeights, Member, ShippedWeights
from medseg_cli.weights import store
from medseg_cli.weights.store import ResolvedWeights


def resolve(preset: Preset) -> ResolvedWeights:
    """The verified weights of a preset, and those that they belong to. Never downloads.

    Raises:
        ModelError: missing (the hint is the command to type), changed since the import, or not what the preset says.
    """
    found = store.resolve(preset)
    named = preset.weights
    if not isinstance(named, ShippedWeights):
        return found
    members = tuple(_member(each, preset) for each in named.members)
    return replace(found, base=find(named.base, found.path) if named.base else None, members=members)


def describe(path: Path) -> BaseWeights:
    """How a result names the weights in this file: by their name where they have one."""
    path = path.resolve()
    known = store.record(path.stem)
    if path == store.file_of(path.stem).resolve() and known is not None:
        return BaseWeights(name=known.name, sha256=known.source_sha256)
    for name, preset in store.shipped().items():
        if preset.weights_file is not None and preset.weights_file.resolve() == path:
            return BaseWeights(name=name, sha256=store.checked_hash(path))
    return BaseWeights(file=str(path), sha256=store.checked_hash(path))


def find(base: BaseWeights, tuned: Path) -> ResolvedWeights:
    """The weights that the file `tuned` belongs to, verified; a file that moved is found if it is in the store.

    Raises:
        ModelError: they are missing (the hint is the command to type), or not those that it was trained on.
    """
    if base.file is not None and not Path(base.file).is_file():
        return _in_store(base, tuned)
    try:
        found = _file(Path(base.file)) if base.file is not None else store.locate(base.name or "")
    except ModelError as error:
        raise ModelError(
            f"{tuned} holds only what a training changed in {base.text}: {error.message}", error.hint
        ) from error
    if base.sha256 not in (found.sha256, found.source_sha256):
        raise ModelError(
            f"{tuned} was trained on {base.text} with SHA-256 {base.sha256[:12]}..., "
            f"the one here has {found.source_sha256[:12]}...",
            "bring the weights it was trained on: with others it means nothing",
        )
    return found


def present(base: BaseWeights) -> bool:
    """Whether weights of that name, file or hash are here; what is in them is not looked at."""
    here = store.installed()
    if base.name is not None and (base.name in {each.name for each in here} or base.name in store.shipped()):
        return True
    if base.file is not None and Path(base.file).is_file():
        return True
    return any(base.sha256 in (each.sha256, each.source_sha256) for each in here)


def _member(member: Member, preset: Preset) -> ResolvedWeights:
    path = (preset.path.parent if preset.path else Path()) / member.file
    if not path.is_file():
        raise ModelError(f"preset '{preset.name}': {path}, one of its checkpoints, is missing", "put the file there")
    found = _file(path)
    if found.sha256 != member.sha256:
        raise ModelError(
            f"preset '{preset.name}': {path} has SHA-256 {found.sha256[:12]}..., not {member.sha256[:12]}...: damaged "
            "or exchanged",
            "restore the file",
        )
    return found


def _file(path: Path) -> ResolvedWeights:
    found = store.checked_hash(path)
    return ResolvedWeights(path, found, path.name, "not stated", found)


def _in_store(base: BaseWeights, tuned: Path) -> ResolvedWeights:
    for record in store.installed():
        if base.sha256 in (record.sha256, record.source_sha256):
            return store.locate(record.name)
    raise ModelError(
        f"{tuned} holds only what a training changed in {base.file}, and that file (SHA-256 {base.sha256[:12]}...) is "
        "missing",
        "put it back, or type: medseg weights import FILE --name NAME",
    )
