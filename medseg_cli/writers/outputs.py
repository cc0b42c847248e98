"""How the files of one segmentation are checked, written and described, and appear all at once or not at all."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg_cli.errors import InputError
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import bids, formats, masks, preview, sidecar
from medseg_cli.writers.formats import Choices
from medseg_cli.writers.names import Output, Outputs, case_name, plan, plan_case

__all__ = ["Output", "Outputs", "case_name", "check", "describe", "plan", "plan_case", "staged", "write"]


def check(outputs: Outputs, inputs: tuple[Path, ...], *, overwrite: bool) -> None:
    """Find out before the work whether the outputs can be written.

    Args:
        outputs: what is to be written; a folder that ends in a slash need not exist yet.
        inputs: files that must not be overwritten, whatever the user says.
        overwrite: whether existing outputs may be replaced. Even then, a preview replaces nothing but a preview:
            nobody asked for that file by its name, and `scan.png` may be the mask of another run.

    Raises:
        InputError: names the path and the reason.
    """
    folders = {each.path: each.format.members for each in outputs.written if each.format.members}
    for path in outputs.files:
        if path.exists() and any(each.exists() and path.samefile(each) for each in inputs):
            raise InputError(f"output {path} is an input of this run", "choose another output name")
        members = folders.get(path)
        if path.is_dir() and members is None:
            raise InputError(f"output {path} is a folder", "choose another output name")
        if path.exists() and not overwrite:
            raise InputError(f"output {path} exists", "add --overwrite, or choose another name")
        if path.exists() and members is not None and not _holds_only(path, members):
            raise InputError(
                f"output {path} would replace something else than a folder of "
                f"{members if isinstance(members, str) else ', '.join(members)} files",
                "move it away",
            )
        if path == outputs.preview and path.exists() and not _replaceable(path):
            raise InputError(
                f"the picture {path} would replace a file that is no such picture, perhaps a mask",
                "choose another output name, move that file away, or add --no-preview",
            )
    folder = outputs.mask.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(outputs.mask, error) from error


def _holds_only(folder: Path, suffix: str | tuple[str, ...]) -> bool:
    return folder.is_dir() and all(path.is_file() and path.name.lower().endswith(suffix) for path in folder.iterdir())


def _replaceable(path: Path) -> bool:
    try:
        return preview.is_preview(path)
    except OSError:
        return False


def write(segmentation: Segmentation, outputs: Outputs, choices: Choices) -> tuple[str, ...]:
    """Write all formats to the stand-ins that `staged` gives; what their writers noted.

    Raises:
        UsageError, InputError: as each writer.
    """
    notes: list[str] = []
    for each in outputs.written:
        notes += formats.write(each.format, segmentation, each.path, choices=choices)
    return tuple(dict.fromkeys(notes))


def describe(segmentation: Segmentation, outputs: Outputs, choices: Choices) -> dict[str, Any]:
    """`output` of a report: the mask, and every file with its hash.

    Args:
        segmentation: what was written.
        outputs: where it lies now.
        choices: as given to `write`.
    """
    whole = (each for each in outputs.written if each.format.content == "voxels" and not each.format.members)
    mask = next(whole, None)
    stored = _stored(segmentation, mask, choices) if mask else None
    return {
        "mask": mask.path.name if mask else None,
        "mask_sha256": sidecar.sha256(mask.path) if mask else None,
        "mask_dtype": stored.dtype if stored else None,
        "mask_values": stored.values if stored else None,
        "preview": outputs.preview.name if outputs.preview else None,
        "files": [
            {
                "format": each.format.name,
                "path": path.relative_to(each.path.parent).as_posix(),
                "sha256": sidecar.sha256(path),
                "bytes": path.stat().st_size,
            }
            for each in outputs.written
            if each.path.exists()
            for path in (sorted(each.path.iterdir()) if each.format.members else (each.path,))
        ],
    }


def _stored(segmentation: Segmentation, mask: Output, choices: Choices) -> masks.Encoding | None:
    """How the values lie in the mask's file; None in DICOM, which says it itself."""
    if mask.format.target == formats.MASKS:
        picture = mask.format.needs == "picture"
        return masks.encoding(segmentation, mask.path, choices.values if picture else "auto")
    return None if mask.format.needs == "dicom" else masks.Encoding("labels", str(segmentation.mask.dtype))


@contextmanager
def staged(outputs: Outputs, *, overwrite: bool) -> Iterator[Outputs]:
    """Yield stand-ins for the outputs; move them to their places when the block ends well, else leave nothing.

    The stand-ins have the final names and lie in a hidden folder beside the final places, so that the moves are plain
    renames. The mask comes last, and signals wait until all are done.

    Raises:
        InputError: no permission, no space, or an output has appeared meanwhile; nothing is left then.
    """
    final = outputs.mask.parent
    try:
        final.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=".medseg-", dir=final))
    except OSError as error:
        raise _unwritable(outputs.mask, error) from error
    try:
        stand_ins = outputs.within(hidden)
        yield stand_ins
        check(outputs, (), overwrite=overwrite)
        absent = {each.path for each in stand_ins.written if each.format.content == "shapes" and not each.path.exists()}
        if outputs.bids:
            bids.describe(outputs.bids)
        with _signals_wait():
            for source, target in zip(stand_ins.files, outputs.files, strict=True):
                if target.is_dir() or (source in absent and target.exists()):
                    target.replace(hidden / f"old-{target.name}")
                if source not in absent:
                    source.replace(target)
    except OSError as error:
        raise _unwritable(outputs.mask, error) from error
    except InputError as error:
        raise InputError(error.message.replace(str(hidden), str(final)), error.hint) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP come after the block.

    Handlers, not a signal mask: a mask holds for one thread, and torch's threads would take the signal.
    """
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for name in names if callable(signal.getsignal(number := getattr(signal, name)))]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {path}: {error.strerror or error}",
        "choose a folder that exists, may be written to and has space (a folder with a slash at the end is created)",
    )
