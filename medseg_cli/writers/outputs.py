"""Where the files of one segmentation go, and how they all appear at once or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import detect
from medseg_cli.writers import image2d, preview
from medseg_cli.writers.masks import mask_suffix

SCAN_SUFFIXES = (".nii.gz", ".img.gz", ".tar.gz")
"""Double suffixes that are dropped as one from a case's name; any other suffix is single."""


@dataclass(frozen=True)
class Outputs:
    """The files of one segmentation.

    Args:
        mask: the label map.
        report: JSON beside it.
        preview: PNG beside it; None if none is wanted.
    """

    mask: Path
    report: Path
    preview: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, the mask last: where the mask is, the rest is too."""
        return (*([self.preview] if self.preview else []), self.report, self.mask)


def case_name(scan: Path) -> str:
    """What a scan is called: its file or folder name without the format's suffix."""
    # A link's own name is the case's: what it leads to may be called by a hash.
    scan = scan.absolute() if scan.name not in ("", ".", "..") else scan.resolve()
    if scan.name.upper() == "DICOMDIR":
        return scan.parent.name
    if scan.is_dir():
        return scan.name or "scan"
    for suffix in SCAN_SUFFIXES:
        if scan.name.lower().endswith(suffix):
            return scan.name[: -len(suffix)]
    return scan.stem


def plan(scan: Path, output: str, *, preview: bool = True) -> Outputs:
    """The files that `-o output` means for `scan`.

    Args:
        scan: file or folder that is segmented.
        output: a mask file, or a folder: one that exists, or any text that ends in a slash. In a folder the mask is
            called `<case>_seg.nii.gz`, or `<case>_seg.png` where the scan is a picture file.
        preview: whether a picture is wanted. It is called as the mask, with `_preview` added where the mask is a PNG.

    Raises:
        UsageError: the file's suffix names no mask format, or there is nothing before it.
        InputError: the file's folder does not exist (a folder with a slash is created), or `scan` is of no known kind.
    """
    folder = Path(output).expanduser()
    if output.endswith(("/", os.sep)) or folder.is_dir():
        mask = folder / f"{case_name(scan)}_seg{'.png' if _is_picture(scan) else '.nii.gz'}"
    else:
        mask = folder
    suffix = mask_suffix(mask)
    stem = mask.name[: -len(suffix)]
    if not stem:
        raise UsageError(f"output {output} has no name before its suffix", f"name it, for example mask{suffix}")
    if mask is folder and not mask.parent.exists():
        raise InputError(f"there is no folder {mask.parent} for {mask.name}", f"mkdir -p {mask.parent}")
    picture = f"{stem}_preview.png" if suffix in image2d.SUFFIXES else f"{stem}.png"
    return Outputs(mask, mask.with_name(f"{stem}.json"), mask.with_name(picture) if preview else None)


def _is_picture(scan: Path) -> bool:
    try:
        return scan.is_file() and detect.detect(scan).format == "image"
    except OSError:
        return False  # reading it will say why


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
    for path in outputs.files:
        if path.exists() and any(each.exists() and path.samefile(each) for each in inputs):
            raise InputError(f"output {path} is an input of this run", "choose another output name")
        if path.is_dir():
            raise InputError(f"output {path} is a folder", "choose another output name")
        if path.exists() and not overwrite:
            raise InputError(f"output {path} exists", "add --overwrite, or choose another name")
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


def _replaceable(path: Path) -> bool:
    try:
        return preview.is_preview(path)
    except OSError:
        return False


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
        preview = hidden / outputs.preview.name if outputs.preview else None
        stand_ins = Outputs(hidden / outputs.mask.name, hidden / outputs.report.name, preview)
        yield stand_ins
        check(outputs, (), overwrite=overwrite)
        with _signals_wait():
            for source, target in zip(stand_ins.files, outputs.files, strict=True):
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
