"""MONAI's way in: `LoadImage(reader=ScanReader(options))` gives a MetaTensor (C, I, J, K) with an index→RAS affine."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.transforms import LoadImage
from monai.utils import MetaKeys, SpaceKeys

from medseg_cli.lean_imports import as_if_not_installed
from medseg_cli.readers.files import read_file
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan

Paths = str | Path | Sequence[str | Path]


class ScanReader(ImageReader):
    """Every format of medseg as a MONAI reader.

    `read` only names the file and `get_data` does the work: `LoadImage` swallows whatever `read` raises and goes on to
    its default readers, which would quietly accept what ours refuses.

    Args:
        options: how to read; the default refuses to guess.
        read: what reads a path with these options, for who has begun to already.
    """

    def __init__(
        self, options: ReadOptions | None = None, read: Callable[[Path, ReadOptions], Scan] = read_file
    ) -> None:
        self.options = options or ReadOptions()
        self._read = read
        self.scan: Scan | None = None

    def verify_suffix(self, filename: Paths) -> bool:
        """Always True: the kind of a file is told by its content."""
        return True

    def read(self, data: Paths, **kwargs: Any) -> Path:
        """The path of the one scan to read.

        Raises:
            ValueError: more than one path.
        """
        paths = [data] if isinstance(data, str | Path) else list(data)
        if len(paths) != 1:
            raise ValueError(f"ScanReader reads one scan at a time, got {len(paths)} paths")
        return Path(paths[0])

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Voxels (C, I, J, K) float32 and metadata with the (4, 4) index→RAS affine of the scan at `img`."""
        self.scan = scan = self._read(img, self.options)
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: scan.affine,
            MetaKeys.ORIGINAL_AFFINE: scan.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(scan.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            "modality": scan.modality,
            "sha256": scan.provenance.sha256,
        }
        return scan.voxels, meta


def load(path: Path, options: ReadOptions, read: Callable[[Path, ReadOptions], Scan] = read_file) -> Scan:
    """The scan at `path`, through `LoadImage`; see `readers.load_scan`."""
    reader = ScanReader(options, read)
    tensor = _load_image(reader)(path)
    assert reader.scan is not None, "LoadImage returned without calling our reader"
    return replace(reader.scan, voxels=tensor.numpy(), affine=tensor.affine.numpy().astype(np.float64))


def _load_image(reader: ScanReader) -> LoadImage:
    """`LoadImage` with our reader. It also sets up readers that are never used; their complaints are not the user's."""
    plugin = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = plugin.level
    plugin.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), as_if_not_installed(("itk",)):
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
            return LoadImage(reader=reader, image_only=True)
    finally:
        plugin.setLevel(level)
