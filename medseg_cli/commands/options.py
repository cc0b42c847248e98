"""Option types that commands share. Heavy imports have no place here: `medseg --help` loads this file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from medseg_cli.logs import Talk
    from medseg_cli.readers.options import ReadOptions
    from medseg_cli.writers.formats import Choices

READING, COMPUTING, TALKING, WRITING = "Reading", "Computing", "Messages", "Writing"

PresetName = Annotated[
    str,
    typer.Option("--preset", "-p", metavar="NAME|PATH", help="Preset: a name of `medseg presets list` or a YAML file."),
]
Series = Annotated[
    str | None,
    typer.Option(metavar="UID|NUMBER", help="DICOM series, as `medseg info` lists them.", rich_help_panel=READING),
]
Channel = Annotated[int | None, typer.Option(min=0, help="Volume of a 4-D file, from 0.", rich_help_panel=READING)]
Spacing = Annotated[
    str | None,
    typer.Option(metavar="X,Y[,Z]", help="Pixel size in mm of an image that states none.", rich_help_panel=READING),
]
Cine = Annotated[
    bool,
    typer.Option(
        "--cine", help="The third axis is time: frames of one picture, not a volume.", rich_help_panel=READING
    ),
]
OnGap = Annotated[
    Literal["error", "resample"],
    typer.Option(help="DICOM slices that are missing or unevenly spaced.", rich_help_panel=READING),
]
OnTilt = Annotated[Literal["error", "shear"], typer.Option(help="DICOM with a tilted gantry.", rich_help_panel=READING)]
OnDuplicate = Annotated[
    Literal["error", "first", "last"],
    typer.Option(
        help="Two DICOM slices in one place: refuse, or keep one by instance number.", rich_help_panel=READING
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", "-d", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=COMPUTING),
]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(rich_help_panel=COMPUTING)]
Seed = Annotated[int, typer.Option(min=0, help="Start of every random number.", rich_help_panel=COMPUTING)]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic/--no-deterministic", help="Same bits on every run.", rich_help_panel=COMPUTING),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="NAME,...",
        help="What to write, several at once: nifti, nrrd, seg-nrrd, mha, mgz, npz, png, nifti-split, dicom-seg, "
        "rtstruct, stl, ply, obj, glb, labels-itksnap, labels-slicer, labels-tsv, areas-csv, explain, uncertainty.",
        show_default="nifti; png for pictures",
        rich_help_panel=WRITING,
    ),
]
Naming = Annotated[
    Literal["case", "bids"],
    typer.Option(help="Names in a folder: <case>_seg..., or BIDS derivatives.", rich_help_panel=WRITING),
]
LabelValues = Annotated[
    bool | None,
    typer.Option(
        "--ml/--no-ml",
        help="PNG masks: label values 1, 2, 3..., or 0 and 255 for any object.",
        show_default="0 and 255 for one object",
        rich_help_panel=WRITING,
    ),
]
MeshFrame = Annotated[
    Literal["lps", "ras"],
    typer.Option(help="World axes of meshes, mm: as DICOM and Slicer's files, or as NIfTI.", rich_help_panel=WRITING),
]
MeshSmooth = Annotated[
    int,
    typer.Option(
        min=0,
        max=100,
        metavar="N",
        help="Rounds of smoothing of meshes, volume kept; 0 leaves the voxels' steps.",
        rich_help_panel=WRITING,
    ),
]
SegType = Annotated[
    Literal["binary", "fractional", "labelmap"],
    typer.Option(help="How a DICOM SEG holds its segments.", rich_help_panel=WRITING),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite/--no-overwrite", help="Replace outputs that exist.", rich_help_panel=WRITING),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report to stdout.", rich_help_panel=WRITING)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.", rich_help_panel=TALKING)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Inner stages and warnings of libraries.", rich_help_panel=TALKING)
]
Debug = Annotated[bool, typer.Option("--debug", help="Everything, and tracebacks.", rich_help_panel=TALKING)]
LogJson = Annotated[
    str,
    typer.Option(
        metavar="PATH|-",
        help="Append log records as JSON lines to a file; - writes them to stderr instead of messages.",
        rich_help_panel=TALKING,
    ),
]


def start_talking(quiet: bool, verbose: bool, debug: bool, log_json: str) -> Talk:
    """Set up logging from the options of a command; the result says how much to tell.

    Raises:
        UsageError: --quiet together with --verbose or --debug.
    """
    from medseg_cli import logs, report
    from medseg_cli.errors import UsageError

    if quiet and (verbose or debug):
        raise UsageError("--quiet contradicts --verbose and --debug", "give one of them")
    talk: Talk = "debug" if debug else "verbose" if verbose else "quiet" if quiet else "normal"
    logs.configure(report.ConsoleLog(), talk, log_json)
    # JSON lines on stderr and messages between them would be neither.
    return "quiet" if log_json == "-" else talk


def read_options(
    series: str | None,
    channel: int | None,
    spacing: str | None,
    on_gap: Literal["error", "resample"],
    on_tilt: Literal["error", "shear"],
    on_duplicate: Literal["error", "first", "last"],
    cine: bool = False,
) -> ReadOptions:
    """The options of group "Reading" as `readers.ReadOptions`.

    Raises:
        UsageError: --spacing is not two or three positive numbers; --cine and --channel contradict each other.
    """
    from medseg_cli.errors import UsageError
    from medseg_cli.readers.options import ReadOptions

    size: tuple[float, float, float] | None = None
    if spacing is not None:
        try:
            numbers = [float(part) for part in spacing.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (2, 3) or not all(0 < number < math.inf for number in numbers):
            raise UsageError(f"--spacing '{spacing}' is not X,Y or X,Y,Z in mm", "for example --spacing 0.2,0.2")
        size = (numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else 1.0)
    if cine and channel is not None:
        raise UsageError("--cine reads all frames, --channel one", "give one of them")
    return ReadOptions(channel, series, size, on_duplicate, on_gap, on_tilt, cine=cine)


def format_choices(
    ml: bool | None,
    mesh_frame: Literal["lps", "ras"],
    mesh_smooth: int,
    seg_type: Literal["binary", "fractional", "labelmap"],
) -> Choices:
    """The options about formats as `writers.formats.Choices`."""
    from medseg_cli.writers.formats import Choices

    return Choices("auto" if ml is None else "labels" if ml else "binary", mesh_frame, mesh_smooth, seg_type)
