"""How the files of one segmentation are called, before any work is done for them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import detect
from medseg_cli.writers import bids, formats
from medseg_cli.writers.formats import Format

SCAN_SUFFIXES = (".nii.gz", ".img.gz", ".tar.gz")
"""Double suffixes that are dropped as one from a case's name; any other suffix is single."""


@dataclass(frozen=True)
class Output:
    """One file of a segmentation, or a folder of files where its format has `members`."""

    format: Format
    path: Path


@dataclass(frozen=True)
class Outputs:
    """The files of one segmentation, all in one folder.

    Args:
        written: one per format, the first of them the mask that reports name.
        report: JSON beside them.
        preview: PNG beside them; None if none is wanted.
        notes: what the user should know about the names, one sentence each.
        bids: folder of the BIDS derivatives that they belong to; None where the names are no BIDS names.
    """

    written: tuple[Output, ...]
    report: Path
    preview: Path | None
    notes: tuple[str, ...] = ()
    bids: Path | None = None

    @property
    def mask(self) -> Path:
        """Where the first format goes: a label map unless the user asked for none."""
        return self.written[0].path

    @property
    def formats(self) -> tuple[Format, ...]:
        """What is written."""
        return tuple(each.format for each in self.written)

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, the mask last: where the mask is, the rest is too."""
        others = [each.path for each in self.written[1:]]
        return (*([self.preview] if self.preview else []), *others, self.report, self.mask)

    def within(self, folder: Path) -> Outputs:
        """The same names in another folder."""
        moved = tuple(replace(each, path=folder / each.path.name) for each in self.written)
        picture = folder / self.preview.name if self.preview else None
        return replace(self, written=moved, report=folder / self.report.name, preview=picture)


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


def plan(
    scan: Path,
    output: str,
    *,
    preview: bool = True,
    wanted: tuple[str, ...] = (),
    naming: Literal["case", "bids"] = "case",
) -> Outputs:
    """The files that `-o output` means for `scan`.

    Args:
        scan: file or folder that is segmented.
        output: a mask file, or a folder: one that exists, or any text that ends in a slash. In a folder the mask is
            called `<case>_seg.nii.gz`, or `<case>_seg.png` where the scan is a picture file.
        preview: whether a picture is wanted. It is called as the mask, with `_preview` added where the mask is a PNG.
        wanted: names of formats. In a folder they are what is written; beside a file that is named they are written
            too, but for the format that this file has.
        naming: "bids" names files in a folder as BIDS derivatives.

    Raises:
        UsageError: the file's suffix names no mask format, or there is nothing before it; BIDS names for a file that
            has one already.
        InputError: the file's folder does not exist (a folder with a slash is created), or `scan` is of no known kind.
    """
    named = Path(output).expanduser()
    if output.endswith(("/", os.sep)) or named.is_dir():
        case = case_name(scan)
        if scan.absolute().parent.name in bids.DATATYPES:
            case = f"{scan.absolute().parent.name}/{case}" if naming == "bids" else case
        return plan_case(named, case, preview=preview, wanted=wanted, naming=naming, picture=_is_picture(scan))
    if naming == "bids":
        raise UsageError(f"--naming bids names the files itself, but -o names {named.name}", "give a folder: -o OUT/")
    own, suffix = formats.of_file(named)
    stem = named.name[: -len(suffix)]
    if not stem:
        raise UsageError(f"output {output} has no name before its suffix", f"name it, for example mask{suffix}")
    if not named.parent.exists():
        raise InputError(f"there is no folder {named.parent} for {named.name}", f"mkdir -p {named.parent}")
    others = _outputs(named.parent, stem, tuple(name for name in wanted if name != own.name))
    return _beside((Output(own, named), *others), named.with_name(stem), preview=preview)


def plan_case(
    folder: Path,
    case: str,
    *,
    preview: bool = True,
    wanted: tuple[str, ...] = (),
    naming: Literal["case", "bids"] = "case",
    picture: bool = False,
) -> Outputs:
    """The files of a case in a folder that may hold those of many.

    Args:
        folder: it need not exist yet.
        case: what the scan is called; "/" separates folders.
        preview: whether a picture is wanted.
        wanted: names of formats; () is NIfTI, or PNG where the scan is a picture file.
        naming: "case" for `<case>_seg<suffix>`, "bids" for derivatives.
        picture: whether the scan is a picture file.

    Raises:
        UsageError: BIDS names in a folder of raw data.
    """
    if all(formats.FORMATS[name].content == "maps" for name in wanted):
        # Maps explain a mask: there is one beside them.
        wanted = ("png" if picture else "nifti", *wanted)
    if naming == "case":
        stem = folder / f"{case}_seg"
        return _beside(_outputs(stem.parent, stem.name, wanted), stem, preview=preview)
    bids.check_root(folder)
    derived = bids.derive(case)
    stem = folder / derived.path
    written = _outputs(stem.parent, stem.name, tuple(dict.fromkeys((*wanted, "labels-tsv"))))
    return replace(_beside(written, stem, preview=preview), notes=derived.notes, bids=folder)


def _outputs(folder: Path, stem: str, names: tuple[str, ...]) -> tuple[Output, ...]:
    """Where each format goes. A suffix that begins with "_" says what the file is: "_seg" then is said already."""
    found = []
    for each in (formats.FORMATS[name] for name in names):
        begin = stem.removesuffix("_seg").removesuffix(bids.SUFFIX) if each.suffix.startswith("_") else stem
        found.append(Output(each, folder / f"{begin}{each.suffix}"))
    return tuple(found)


def _beside(written: tuple[Output, ...], stem: Path, *, preview: bool) -> Outputs:
    """Report and picture beside what is written; the picture does not take the name of a mask that is one."""
    has_png = any(each.format.name == "png" for each in written)
    picture = stem.with_name(f"{stem.name}{'_preview' if has_png else ''}.png")
    return Outputs(written, stem.with_name(f"{stem.name}.json"), picture if preview else None)


def _is_picture(scan: Path) -> bool:
    try:
        return scan.is_file() and detect.detect(scan).format == "image"
    except OSError:
        return False  # reading it will say why
