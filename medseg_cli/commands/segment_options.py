"""Option types that `medseg segment` alone has. No heavy import: `medseg segment --help` loads this file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medseg_cli.commands.options import COMPUTING, READING, WRITING

PROMPTS = "Prompts"
SLICES = "2-D models on volumes (default: what the preset says)"
CLEANING = "Cleaning (default: what the preset says)"

Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="MASK|FOLDER/",
        help="Mask file; or a folder with a slash: there --format decides, else .png for pictures and .nii.gz.",
    ),
]
Points = Annotated[
    list[str] | None,
    typer.Option(
        "--point",
        metavar="X,Y[,Z][:+|-]",
        help="Click inside (:+) or outside (:-) the object; may be repeated.",
        rich_help_panel=PROMPTS,
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="[NAME=]WHAT",
        help="What to segment, in words; repeated for several classes, or with the same name for another phrasing.",
        rich_help_panel=PROMPTS,
    ),
]
Nots = Annotated[
    list[str] | None,
    typer.Option(
        "--not",
        metavar="[NAME=]WHAT",
        help="What the texts could be taken for and do not mean, of all classes or of one; may be repeated.",
        rich_help_panel=PROMPTS,
    ),
]
TextModel = Annotated[
    str | None,
    typer.Option(
        "--text-model",
        metavar="FOLDER|PRESET",
        help="Language model for texts that a cc-sam preset does not know (docs/cc-sam.md).",
        rich_help_panel=PROMPTS,
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="FOLDER",
        help="Grounding DINO that finds a box for what --text says (cc-sam presets; docs/cc-sam.md).",
        rich_help_panel=PROMPTS,
    ),
]
TextFile = Annotated[
    Path | None,
    typer.Option(
        "--text-file",
        metavar="YAML",
        help="Classes with their phrasings, and what they are not (docs/text.md).",
        rich_help_panel=PROMPTS,
    ),
]
Boxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="X0,Y0[,Z0],X1,Y1[,Z1]",
        help="Box round the object, both corners inside; may be repeated. Two numbers a corner lie in one slice.",
        rich_help_panel=PROMPTS,
    ),
]
MaskPrompt = Annotated[
    Path | None,
    typer.Option(
        "--mask-prompt",
        metavar="MASK",
        help="Coarse mask on the scan's grid; every value is an object.",
        rich_help_panel=PROMPTS,
    ),
]
SliceIndex = Annotated[
    int | None,
    typer.Option(
        "--slice",
        "--frame",
        min=0,
        metavar="N",
        help="Slice of a volume, or frame of a cine, that x,y lie in, from 0.",
        rich_help_panel=PROMPTS,
    ),
]
Coords = Annotated[
    Literal["ijk", "ras", "lps"],
    typer.Option(
        help="Frame of the prompts: voxel index, or mm as NIfTI and Slicer (ras) or DICOM and ITK (lps) give.",
        rich_help_panel=PROMPTS,
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="CSV",
        help="Table of clicks and boxes on many objects: id,label,x,y,z,x1,y1,z1,sign,coords.",
        rich_help_panel=PROMPTS,
    ),
]
Label = Annotated[str, typer.Option(help="Name of the object that the prompts above mean.", rich_help_panel=PROMPTS)]
Slices = Annotated[
    Literal["finest", "axial", "coronal", "sagittal", "acquisition"] | None,
    typer.Option(help="Plane in which a volume is sliced.", rich_help_panel=SLICES),
]
WindowText = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar="LEVEL/WIDTH|NAME",
        help="Grey values, such as 40/400; or for CT: soft-tissue, lung, bone, brain, liver...",
        rich_help_panel=SLICES,
    ),
]
Propagate = Annotated[
    bool | None,
    typer.Option(
        "--propagate/--no-propagate",
        help="Follow a prompt in one slice through its neighbours.",
        rich_help_panel=SLICES,
    ),
]
MaxSlices = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="How far, in slices per direction.", rich_help_panel=SLICES),
]
BatchSlices = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Slices encoded at a time.", rich_help_panel=SLICES),
]
SmoothTime = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=51,
        metavar="N",
        help="Frames of a cine that each mask is smoothed over, an odd number; 0 leaves every frame by itself.",
        rich_help_panel=SLICES,
    ),
]
Sector = Annotated[
    bool | None,
    typer.Option(
        "--sector/--no-sector",
        help="Ultrasound pictures and cines: masks end at the sector's border, callipers and text are painted over "
        "before the network sees them.",
        show_default=False,
        rich_help_panel=SLICES,
    ),
]
Mirror = Annotated[
    bool | None,
    typer.Option(
        "--mirror/--no-mirror",
        help="Ask the network about each picture's mirror image too and take the mean; twice the time.",
        show_default=False,
        rich_help_panel=SLICES,
    ),
]
Redraw = Annotated[
    bool | None,
    typer.Option(
        "--redraw/--no-redraw",
        help="Objects that the preset calls ellipses, such as fetal heads: the fitted ellipse becomes the mask.",
        show_default=False,
        rich_help_panel=SLICES,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the encoder with torch, and keep the result for later runs; needs a C++ compiler.",
        rich_help_panel=COMPUTING,
    ),
]
EmbeddingCache = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep what the image encoder made, for the next prompt on the same scan.",
        rich_help_panel=SLICES,
    ),
]
Keep = Annotated[
    Literal["all", "clicked", "largest"] | None,
    typer.Option(help="Parts of each object that stay.", rich_help_panel=CLEANING),
]
MinMm3 = Annotated[
    float | None,
    typer.Option(
        "--min-mm3",
        min=0,
        metavar="MM3",
        help="Drop parts smaller than this.",
        rich_help_panel=CLEANING,
    ),
]
FillHoles = Annotated[
    bool | None,
    typer.Option(
        "--fill-holes/--no-fill-holes",
        help="Fill what an object encloses.",
        rich_help_panel=CLEANING,
    ),
]
Modality = Annotated[
    str,
    typer.Option(
        metavar="CODE",
        help="CT, MR, DX...: what a file that does not say is. Presets choose grey values by it.",
        rich_help_panel=READING,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME|FILE",
        help="Weights of the same architecture instead of the preset's.",
        rich_help_panel=COMPUTING,
    ),
]
RandomWeights = Annotated[
    bool,
    typer.Option(
        "--random-weights",
        help="Run without weights; every output is stamped as meaningless.",
        rich_help_panel=COMPUTING,
    ),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Write where words and scan agree: maps, pictures and scores of every class (the same as --format "
        "explain beside the mask).",
        rich_help_panel=WRITING,
    ),
]
Uncertainty = Annotated[
    bool,
    typer.Option(
        "--uncertainty",
        help="How far several answers lie apart: of CC-SAM draws of its latents, of ensembles their checkpoints. The "
        "mask stays the same. A map lies beside it (the same as --format uncertainty); evaluate tells whether it "
        "goes with errors.",
        rich_help_panel=WRITING,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=2,
        max=1000,
        metavar="N",
        help="Draws of the latents for --uncertainty.",
        show_default="what the preset says, else 16",
        rich_help_panel=COMPUTING,
    ),
]
Preview = Annotated[
    bool, typer.Option("--preview/--no-preview", help="Picture beside the mask.", rich_help_panel=WRITING)
]
