"""MONAI and segment_anything imported without what medseg does not use: lean, complete, and harmless to others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LINES = """
import sys
{first}
from medseg_cli import lean_imports
lean_imports.load_networks_and_transforms()
from segment_anything.modeling import ImageEncoderViT
from monai.transforms import LoadImage, SpatialResample
from torchvision.models.resnet import BasicBlock
{then}
"""


def _python(root: Path, then: str, first: str = "") -> str:
    lines = LINES.format(first=first, then=then)
    environment = {"PYTHONPATH": f"{root}:{root / 'kernels'}", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", lines], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_medseg_does_not_use_is_not_imported_and_can_be_imported_afterwards(root: Path) -> None:
    then = """
heavy = {"torchvision.ops", "transformers", "pandas", "matplotlib", "torch._dynamo"}
print(sorted(heavy & set(sys.modules)))
import matplotlib, torchvision, scipy.signal
print(torchvision.ops.nms.__name__, scipy.signal.medfilt([1.0, 9, 1, 1, 1]).tolist())
# The package itself, asked for what is in its own module, and its networks are one and the same.
from segment_anything import sam_model_registry, modeling
import segment_anything
print(sorted(sam_model_registry)[-1], segment_anything.SamPredictor.__name__)
print(modeling.ImageEncoderViT is ImageEncoderViT)
print(torchvision.models.resnet.BasicBlock is BasicBlock, torchvision.models.resnet18.__name__)
print(hasattr(segment_anything, "nothing_of_that_name"))
"""
    assert _python(root, then).splitlines() == [
        "[]",
        "nms [1.0, 1.0, 1.0, 1.0, 1.0]",
        "vit_l SamPredictor",
        "True",
        "True resnet18",
        "False",
    ]


def test_what_is_imported_already_stays_as_it_is(root: Path) -> None:
    first = "import segment_anything, torchvision; before = segment_anything, torchvision"
    then = "print(before == (sys.modules['segment_anything'], sys.modules['torchvision']))"
    assert _python(root, then, first) == "True"
