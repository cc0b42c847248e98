"""The local store: one safetensors file and one JSON record per checkpoint, verified before anybody uses it.

`$MEDSEG_HOME/weights` (or the platform's cache folder) holds `<name>.safetensors` and `<name>.json`. A file is hashed
when it is imported and again whenever its size or modification time differs from those of the last check, so that a run
does not read gigabytes twice. `medseg weights verify` always hashes.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from medseg_cli import preset as presets
from medseg_cli.errors import ModelError
from medseg_cli.preset import Preset
from medseg_cli.weights.catalogue import CATALOGUE, entry

_SMALL = 16 * 2**20  # bytes; below this hashing costs less than keeping a stamp
_CHUNK = 2**20


@dataclass(frozen=True)
class Record:
    """What is known of one file in the store.

    Attributes:
        name: its name in the store.
        sha256: of the safetensors file.
        source_sha256: of the file that was imported.
        source: where that came from (address or file name).
        layout: its state-dict layout.
        licence: of the weights.
        imported: UTC time, ISO 8601.
    """

    name: str
    sha256: str
    source_sha256: str
    source: str
    layout: str
    licence: str
    imported: str


@dataclass(frozen=True)
class ResolvedWeights:
    """Weights that are present and whose hash was checked.

    Attributes:
        path: safetensors file.
        sha256: of that file.
        name: catalogue or store name, the preset's name for a file beside it, the file's name for one elsewhere.
        licence: of the weights.
        source_sha256: of the published file it was converted from; equal to `sha256` if it was not converted.
        base: the weights that this file's tensors belong to, where it holds a difference alone.
        members: more checkpoints of the same network, whose mean is the answer.
    """

    path: Path
    sha256: str
    name: str
    licence: str
    source_sha256: str
    base: ResolvedWeights | None = None
    members: tuple[ResolvedWeights, ...] = ()


def home() -> Path:
    """`$MEDSEG_HOME`, or the platform's cache folder for medseg."""
    chosen = os.environ.get("MEDSEG_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("medseg", appauthor=False)


def folder() -> Path:
    """The folder of the store; it need not exist."""
    return home() / "weights"


def sha256_of(path: Path, progress: Callable[[int, int | None], None] | None = None) -> str:
    """SHA-256 of a file as 64 hex digits; `progress(bytes done, bytes in all)` is called as it goes.

    Raises:
        ModelError: the file cannot be read.
    """
    digest = hashlib.sha256()
    done = 0
    try:
        total = path.stat().st_size
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def file_of(name: str) -> Path:
    """Where the store keeps that checkpoint, present or not."""
    return folder() / f"{name}.safetensors"


def record(name: str) -> Record | None:
    """The record of a checkpoint in the store; None if it is not there or its record is unreadable."""
    try:
        return Record(**json.loads((folder() / f"{name}.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def installed() -> tuple[Record, ...]:
    """Every checkpoint in the store that has both its file and its record, by name."""
    if not folder().is_dir():
        return ()
    found = (record(path.stem) for path in sorted(folder().glob("*.safetensors")))
    return tuple(each for each in found if each is not None)


def write_record(new: Record) -> None:
    """Put a record beside its file, atomically."""
    target = folder() / f"{new.name}.json"
    draft = target.with_suffix(".json.part")
    draft.write_text(json.dumps(asdict(new), indent=1) + "\n", "utf-8")
    os.replace(draft, target)


def shipped() -> dict[str, Preset]:
    """Preset name -> preset, for every valid preset whose weights lie beside it."""
    found = {}
    for name, where in presets.locations().items():
        try:
            loaded = presets.load(where)
        except ModelError:
            continue  # `medseg presets check` is where a broken preset is reported
        if loaded.weights_file is not None:
            found[name] = loaded
    return found


def resolve(preset: Preset) -> ResolvedWeights:
    """The verified weights of a preset. Never downloads.

    Raises:
        ModelError: missing (the hint is the command to type), changed since the import, or not what the preset says.
    """
    if preset.weights is None:
        raise ModelError(
            f"preset '{preset.name}' has no weights: it is trained on your own data first",
            f"medseg finetune DATASET -o RUN --preset {preset.name}, then use --preset RUN",
        )
    file = preset.weights_file
    if file is None:
        return _stored(preset.weights_name)
    if not file.is_file():
        raise ModelError(
            f"preset '{preset.name}': its weights {file} are missing",
            "install medseg again, or put the file there" if _is_shipped(file) else "put the file there",
        )
    found = checked_hash(file)
    wanted = preset.weights_sha256
    if wanted is not None and found != wanted:
        raise ModelError(
            f"preset '{preset.name}': {file} has SHA-256 {found[:12]}..., not {wanted[:12]}...: damaged or exchanged",
            "install medseg again" if _is_shipped(file) else "restore the file, or correct sha256 in the preset",
        )
    beside = preset.path is None or file.is_relative_to(preset.path.parent)
    return ResolvedWeights(file, found, preset.name if beside else file.name, preset.licence, found)


def path(name: str) -> Path:
    """The verified file of a catalogue entry, of an import, or of a preset with its weights beside it.

    Raises:
        ModelError: unknown name, missing, or damaged.
    """
    return locate(name).path


def locate(name: str) -> ResolvedWeights:
    """As `path`, with hash and licence.

    Raises:
        ModelError: unknown name, missing, or damaged.
    """
    if record(name) is None and entry(name) is None and (beside := shipped().get(name)) is not None:
        return resolve(beside)
    return _stored(name)


def known_names() -> tuple[str, ...]:
    """All names that `locate` understands."""
    return tuple(sorted({known.name for known in CATALOGUE} | {here.name for here in installed()} | set(shipped())))


def _stored(name: str) -> ResolvedWeights:
    known, file = record(name), file_of(name)
    if known is None or not file.is_file():
        raise missing(name)
    found = checked_hash(file)
    if found != known.sha256:
        raise ModelError(
            f"weights '{name}': {file} has SHA-256 {found[:12]}..., {known.sha256[:12]}... when imported: damaged",
            how_to_get(name),
        )
    return ResolvedWeights(file, found, name, known.licence, known.source_sha256)


def missing(name: str) -> ModelError:
    """The error for a name that is not in the store, with the command that brings it there."""
    if entry(name) is None and name not in known_names():
        close = difflib.get_close_matches(name, known_names(), n=1, cutoff=0.5)
        guess = f" (did you mean '{close[0]}'?)" if close else ""
        return ModelError(f"no weights are called '{name}'{guess}", "`medseg weights list` shows all names")
    return ModelError(f"weights '{name}' are not in {folder()}", how_to_get(name))


def how_to_get(name: str) -> str:
    """The exact command that brings a checkpoint into the store."""
    known = entry(name)
    if known is not None and known.url:
        return f"medseg weights pull {name}"
    by_hand = f"medseg weights import FILE --name {name}"
    return f"{by_hand} (FILE: downloaded by hand from {known.page} )" if known is not None else by_hand


def checked_hash(file: Path) -> str:
    """SHA-256 of a file, from the stamp of its last check if size and modification time are the same.

    Raises:
        ModelError: the file cannot be read.
    """
    state = file.stat()
    if state.st_size < _SMALL:
        return sha256_of(file)
    stamp = _stamp_of(file)
    key = {"path": str(file.resolve()), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
    try:
        known = json.loads(stamp.read_text("utf-8"))
        if {name: known.get(name) for name in key} == key:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, AttributeError):
        known = None  # no stamp, or a damaged one: hash the file
    found = sha256_of(file)
    remember(file, found)
    return found


def remember(file: Path, sha256: str) -> None:
    """Stamp a file as checked. A store that cannot be written is no error: the file is hashed again next time."""
    state, stamp = file.stat(), _stamp_of(file)
    text = {"path": str(file.resolve()), "size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": sha256}
    draft = stamp.with_suffix(f".{os.getpid()}.part")
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(text), "utf-8")
        os.replace(draft, stamp)
    except OSError:
        return


def _stamp_of(file: Path) -> Path:
    return home() / "verified" / f"{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]}.json"


def _is_shipped(file: Path) -> bool:
    return file.is_relative_to(presets.shipped_folder().resolve())
