"""How DICOM codes the things that labels name: SNOMED CT where the preset gives a code, a plain "tissue" where not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg_cli.segmentation import Label

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

TISSUE = ("85756007", "Tissue")
"""Category and type of what has no code: what 3D Slicer and others store for "some structure"."""
BODY_STRUCTURE = ("123037004", "Body structure")
"""Category of a SNOMED CT code that DICOM lists under no category. It is SNOMED CT's own word for all of them."""

_CATEGORIES = (
    ("cid7194", "49755003", "Morphologically Abnormal Structure"),
    ("cid7192", "91723000", "Anatomical Structure"),
    ("cid7191", "85756007", "Tissue"),
    ("cid7193", "260787004", "Physical object"),
    ("cid7197", "91720002", "Body Substance"),
    ("cid7198", "105590001", "Substance"),
    ("cid7195", "246464006", "Function"),
    ("cid7196", "309825002", "Spatial and Relational Concept"),
)
"""DICOM PS3.16: the context groups of segmented property types, and the category (CID 7150) that each belongs to."""


def codes_of(label: Label) -> tuple[Code, Code]:
    """(category, type) of a label.

    The category is that of the DICOM context group which lists the code; a lesion goes before the organ it lies in.
    The meaning is DICOM's own where it lists the code, and the label's name where it does not.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if not label.snomed:
        return Code(TISSUE[0], "SCT", TISSUE[1]), Code(TISSUE[0], "SCT", TISSUE[1])
    for group, value, meaning in _CATEGORIES:
        listed = [code for code in getattr(codes, group).concepts.values() if code.scheme_designator == "SCT"]
        for code in listed:
            if code.value == label.snomed:
                return Code(value, "SCT", meaning), Code(code.value, "SCT", long_string(code.meaning))
    name = long_string(label.name) or "unnamed"
    return Code(BODY_STRUCTURE[0], "SCT", BODY_STRUCTURE[1]), Code(label.snomed, "SCT", name)


def long_string(text: str, length: int = 63) -> str:
    """Text as a DICOM long string (LO, 64 characters): one line, without backslashes, cut to its length.

    One less than the 64, for readers that count the blank which pads a value to an even number of bytes.
    """
    line = " ".join("".join(each if each.isprintable() else " " for each in text).replace("\\", "/").split())
    return line if len(line) <= length else f"{line[: length - 3].rstrip()}..."
