"""Pictures 72x48 of a bright ellipse on dark noise, with masks: what a small network learns in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save(folder: Path, count: int) -> Path:
    """`count` pictures in folder/images, their masks (255 inside) in folder/masks; always the same."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :72]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        mask = ((x - rng.uniform(25, 45)) / 12) ** 2 + ((y - rng.uniform(18, 30)) / 10) ** 2 < 1
        image = np.clip(rng.normal(60, 12, mask.shape) + 110 * mask, 0, 255).astype(np.uint8)
        for kind, pixels in (("images", image), ("masks", (mask * 255).astype(np.uint8))):
            Image.fromarray(pixels).save(folder / kind / f"e{number}.png")
    return folder
