"""Names and colours inside a NIfTI file: the label table of Caret and Workbench, which FSLeyes and others read too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from medseg_cli.segmentation import Label

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Extensions

_CODE = 30
"""NIfTI's number for extensions in Caret's XML."""


def extensions(labels: Sequence[Label]) -> Nifti1Extensions:
    """The one extension of a NIfTI label map. It holds no date, so that the same mask is the same bytes."""
    from nibabel.nifti1 import Nifti1Extension, Nifti1Extensions

    return Nifti1Extensions([Nifti1Extension(_CODE, _xml(labels))])


def _xml(labels: Sequence[Label]) -> bytes:
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for label in (Label(0, "background", (0, 0, 0)), *labels):
        red, green, blue = (f"{part / 255:.6g}" for part in label.color)
        alpha = "1" if label.value else "0"
        row = ElementTree.SubElement(table, "Label", Key=str(label.value), Red=red, Green=green, Blue=blue, Alpha=alpha)
        row.text = "".join(letter for letter in label.name if letter.isprintable())
    ElementTree.SubElement(volume, "StudyMetaDataLinkSet")
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    text: bytes = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return text
