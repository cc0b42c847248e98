"""What is known of one case after it was run: one JSON file, from which every table and page of a batch is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal

SCHEMA = "medseg-batch-case/1"

Status = Literal["ok", "flagged", "absent", "failed", "skipped"]
STATUSES: tuple[Status, ...] = ("failed", "flagged", "absent", "skipped", "ok")
"""In the order in which people want to see them."""

KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "reason", "settings_sha256", "preset", "started", "finished"), str),
    **dict.fromkeys(("input", "worker", "versions"), dict),
    **dict.fromkeys(("outputs", "left", "labels", "flags", "notes", "stages"), list),
    "seconds": (int, float),
    "error": (dict, type(None)),
    "thumbnail": (str, type(None)),
}
"""What the values of a record are."""


@dataclass(frozen=True)
class Record:
    """One case. All of it is JSON-ready and travels between processes.

    Args:
        id: unique in the output folder; "/" separates folders.
        status: "failed" has no outputs; "flagged" and "absent" have; "skipped" was not reached.
        reason: one line that says why it is not "ok"; "" where it is.
        error: of a failed case `code` (exit code), `message`, `hint`, `kind` (the exception's class).
        input: `path`, `sha256` of all bytes the case is made of (see `batch.inputs`), and once it was read what the
            report beside the mask says of it (`format`, `modality`, `shape_ijk`, `spacing_mm`, ...).
        settings_sha256: everything else that decides the outputs: run, preset, reading and prompt of this case.
        preset: its name.
        outputs: per file `path` relative to the output folder with "/", `sha256`, `bytes`, and `kind`: a format's name,
            "report" or "preview".
        left: of a failed case, outputs as above that an earlier run made of other input or settings, still there.
        labels: as in the report beside the mask, statistics included.
        flags: what a person should look at: `code`, `message`, `label`, `value`, `limit`.
        notes: what was repaired, chosen or odd, one sentence each.
        seconds: wall time of all stages.
        stages: as in the report beside the mask.
        peak_rss_mib: highest resident memory of the process while the case was read, segmented and written.
        thumbnail: path of the picture, relative to the output folder; None without one.
        worker: `host` and `pid` of the process.
        started, finished: UTC, ISO 8601.
        versions: of medseg and of what decides its results.
    """

    id: str
    status: Status
    reason: str = ""
    error: dict[str, Any] | None = None
    input: dict[str, Any] = field(default_factory=dict)
    settings_sha256: str = ""
    preset: str = ""
    outputs: tuple[dict[str, Any], ...] = ()
    left: tuple[dict[str, Any], ...] = ()
    labels: tuple[dict[str, Any], ...] = ()
    flags: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    stages: tuple[dict[str, Any], ...] = ()
    peak_rss_mib: float | None = None
    thumbnail: str | None = None
    worker: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    versions: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether it has outputs that need not be made again."""
        return self.status in ("ok", "flagged", "absent")

    def to_json(self) -> dict[str, Any]:
        """As data for JSON, with the schema's name."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """The inverse of `to_json`; keys of later versions are left out.

        Raises:
            ValueError: it is no such record.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA or data.get("status") not in STATUSES:
            raise ValueError(f"no record of schema {SCHEMA}")
        known = {each.name for each in fields(cls)}
        values: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in data.items()}
        _check(data)
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except TypeError as error:
            raise ValueError(str(error)) from error


def _check(data: dict[str, Any]) -> None:
    """Refuse what no run has written: rows that are none, and files that lie elsewhere than in the output folder.

    Files of a record are deleted when their case is done again, and shown in the page.

    Raises:
        ValueError: says what is wrong.
    """
    odd = [key for key, kind in KINDS.items() if key in data and not isinstance(data[key], kind)]
    if odd:
        raise ValueError(f"{odd[0]} is of another kind than it should be")
    rows = {key: data.get(key) or () for key in ("outputs", "left", "labels", "flags", "stages")}
    if not all(isinstance(each, dict) for listed in rows.values() for each in listed):
        raise ValueError("a list holds something else than objects")
    named = {"labels": ("name", "empty"), "flags": ("code", "message"), "stages": ("stage", "seconds")}
    if any(key not in each for listed, keys in named.items() for each in rows[listed] for key in keys):
        raise ValueError("a label, flag or stage has no name")
    files = (*rows["outputs"], *rows["left"])
    if not all(isinstance(each.get(key), str) for each in files for key in ("path", "sha256", "kind")):
        raise ValueError("an output has no path, hash or kind")
    if not all(isinstance(each.get("bytes"), int) for each in files):
        raise ValueError("an output has no size")
    for path in (*(each["path"] for each in files), data.get("thumbnail") or "."):
        if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive:
            raise ValueError(f"{path} does not lie in the output folder")
