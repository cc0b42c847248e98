"""Small volumes with one bright ball each, and a network small enough to be trained on them in seconds.

Import it with `from balls import ...` (tests/ is on pytest's path).
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg_cli import preset

TINY = {
    "crop_size": 16, "internal_size": 16, "img_size": 16, "patch_size": 4, "num_slice": 4, "embed_dim": 16, "depth": 4,
    "num_heads": 2, "mlp_ratio": 2, "window_size": 2, "global_attn_indexes": [], "cubic_window_size": 2, "out_chans": 8,
    "prompt_heads": 2, "prompt_mlp_dim": 16, "num_pos_feats": 4, "mlahead_channels": 4, "decoder_scale": 4,
}  # fmt: skip


def write_balls(folder: Path, count: int = 6) -> Path:
    """`count` volumes of 20³ voxels in the layout of the Medical Segmentation Decathlon."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(count):
        centre = rng.uniform(7, 13, size=3)
        index = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), -1)
        ball = ((index - centre) ** 2).sum(-1) < 4.5**2
        image = (rng.normal(100, 10, (20, 20, 20)) + 80 * ball).astype(np.float32)
        for kind, data in (("imagesTr", image), ("labelsTr", ball.astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, np.eye(4)), folder / kind / f"ball_{number}.nii.gz")
        entries.append({"image": f"./imagesTr/ball_{number}.nii.gz", "label": f"./labelsTr/ball_{number}.nii.gz"})
    (folder / "dataset.json").write_text(json.dumps({"name": "Balls", "training": entries}))
    return folder


def write_tiny(path: Path) -> Path:
    """A preset like hippocampus-mr with a very small network."""
    base = preset.find("hippocampus-mr").model_copy(update={"name": "tiny", "model": TINY})
    path.write_text(preset.dump(base))
    return path
