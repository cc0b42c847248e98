"""Every stage between file and file, beside what one writes without thinking about speed; three scans."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_scans
import nibabel as nib
import numpy as np
import torch
from formulas import by_formulas
from gated import Row, compare, largest, relative, share
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import medseg_cli
from medseg_cli import device, intensity, pipelines, postprocess, preset
from medseg_cli.frame import Frame
from medseg_cli.geometry import Grid, overlap, resample, resample_in_slabs, scan_grid, working_grid
from medseg_cli.preset_format import Postprocessing
from medseg_cli.preset_intensity import Window
from medseg_cli.prompt import Click, Prompt, Target
from medseg_cli.read_ahead import read_ahead
from medseg_cli.readers import ReadOptions
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.stages import Stages
from medseg_cli.writers.masks import write_mask

EXACT = 1e-5
"""Relative distance of two float32 computations of one network."""
NEAR = 2e-4
"""Likewise of linear interpolation, as a share of the values' range: theirs computes its places in float32."""


def image_rows(path: Path, network: bool) -> Iterator[Row]:
    """The X-ray: read, and the network's two halves against the formulas of its own operations."""
    yield compare(
        "image",
        "read (naive: PIL, float64)",
        lambda: np.asarray(Image.open(path)).astype(np.float64).T[None, :, :, None],
        lambda: read_file(path, ReadOptions()).voxels,
        note="ours also hashes the file and checks it",
    )
    if network:
        model, image = _model("chest-xray-lungs"), torch.randn(1, 3, 256, 256)
        box = torch.tensor([[0.0, 0.0, 256.0, 240.0]])
        yield from _halves("image", model.encode, lambda kept: model.decode(kept, boxes=box)[0], image)
        yield _together(path)


def _together(path: Path) -> Row:
    """Eight cases of a batch in shared batches of the network, no embedding kept."""
    chosen = preset.find("chest-xray-lungs")
    chosen = chosen.model_copy(update={"options": {**chosen.options, "memory_mb": 0, "batch": 8}})
    pipeline = pipelines.build(chosen, device.select("cpu"))
    scan = read_file(path, ReadOptions())
    scans = [replace(scan, voxels=np.roll(scan.voxels, 8 * number, axis=1)) for number in range(8)]
    return compare(
        "image",
        "segment eight pictures in shared batches (naive: one by one)",
        lambda: np.stack([pipeline.segment(each, Prompt(), Stages()).mask for each in scans]),
        lambda: np.stack([each.mask for each in pipeline.segment_together([(s, Prompt()) for s in scans], Stages())]),
        share,
        1e-4,
        rounds=3,
    )


def volume_rows(path: Path, folder: Path, network: bool) -> Iterator[Row]:
    """The brain: read, resample a crop, network, paste back, write."""
    yield _read("volume", path)
    scan = read_file(path, ReadOptions())
    grid = scan_grid(scan)
    lattice = working_grid(grid, "RAS", (1.5, 1.5, 1.5)).window(np.array([20, 40, 10]), (48, 48, 48))
    voxels = torch.from_numpy(scan.voxels)
    # The naive version too reads only what lies under the crop.
    place = [slice(max(part.start - 8, 0), part.stop + 8) for part in overlap(grid, lattice)]
    near = voxels[:, place[0], place[1], place[2]]
    first = np.array([part.start for part in place])
    around = grid.window(first, (near.shape[1], near.shape[2], near.shape[3]))
    yield compare(
        "volume",
        "a crop of 48³ at 1.5 mm, smoothed (naive: MONAI's GaussianFilter and SpatialResample)",
        lambda: _by_monai(near, around, lattice),
        lambda: resample(voxels, grid, lattice)[0].numpy(),
        tolerance=NEAR * float(scan.voxels.max()),
    )
    if network:
        chosen = preset.find("hippocampus-mr")
        model = _model("hippocampus-mr")
        crop = torch.randn(1, 1, *[chosen.model["crop_size"]] * 3)
        click = torch.full((1, 1, 3), 24.0)
        yield from _halves("volume", model.encoder, lambda kept: model.decode(kept, crop, click), crop)
        yield _crops_together()
    blob = np.random.default_rng(0).random(lattice.shape, np.float32)
    yield _paste("volume", blob, lattice, grid)
    labels = (scan.voxels[0] > np.quantile(scan.voxels, 0.9)).astype(np.uint8)
    yield _write("volume", scan, labels, folder, None)


def _crops_together() -> Row:
    """Four small cases of a batch in shared batches of crops; noise, so that each object takes all its crops."""
    chosen = preset.find("hippocampus-mr")
    chosen = chosen.model_copy(update={"options": {**chosen.options, "max_crops": 3}})
    pipeline = pipelines.build(chosen, device.select("cpu", seed=1), random_weights=True)
    jobs = []
    for number in range(4):
        voxels = np.random.default_rng(number).normal(100, 20, (1, 35, 51, 35)).astype(np.float32)
        scan = Scan(voxels, np.eye(4), Provenance(Path("noise.nii.gz"), "nifti", ""), "MR")
        jobs.append((scan, Prompt((Target("1", "", (Click((17.0, 25.0, 17.0)),)),))))
    return compare(
        "volume",
        "segment four hippocampus-size volumes in shared batches of crops (naive: one by one)",
        lambda: np.stack([pipeline.segment(*job, Stages()).mask for job in jobs]),
        lambda: np.stack([each.mask for each in pipeline.segment_together(jobs, Stages())]),
        share,
        1e-3,
        rounds=3,
    )


def ct_rows(path: Path, labels: NDArray[np.uint8], folder: Path, network: bool, seed: int) -> Iterator[Row]:
    """The CT: read, window, encode a slice, decode eight boxes, resample, paste back, clean, write."""
    yield _read("ct", path, goal=2.5)
    scan = read_file(path, ReadOptions())
    shown = intensity.display(scan, Window(method="window", level=40, width=400), "the benchmark's")
    middle = scan.shape[2] // 2
    frame = Frame(scan.shape[1], scan.shape[0], 1024)

    def grey() -> NDArray[np.float64]:
        scaled = (np.clip(scan.voxels.astype(np.float64), -160, 240) + 160) / 400 * 255
        return np.rint(scaled[0, :, :, middle]).T[..., None].repeat(3, 2)

    yield compare(
        "ct",
        "window one slice (naive: the whole volume in float64)",
        grey,
        lambda: shown.picture(scan.voxels[:, :, :, middle].transpose(0, 2, 1)),
        tolerance=1.0,
    )
    if network:
        yield from _sam(frame.image(shown.picture(scan.voxels[:, :, :, middle].transpose(0, 2, 1)))[None], seed)
    grid = scan_grid(scan)
    coarse = working_grid(grid, None, (1.5, 1.5, 1.5))
    voxels = torch.from_numpy(scan.voxels)
    yield compare(
        "ct",
        "resample to 1.5 mm, linear (naive: scipy order 1)",
        lambda: _by_scipy(scan.voxels[0], grid, coarse),
        lambda: resample(voxels, grid, coarse, smooth=False)[0][0].numpy(),
        tolerance=NEAR * 4096,
        goal=8.0,
    )
    yield _paste("ct", np.random.default_rng(seed).random(coarse.shape, np.float32), coarse, grid)
    organ = labels > 0
    how = Postprocessing(keep="largest", min_mm3=0.0, fill_holes=False)
    yield compare(
        "ct",
        "keep the largest part (naive: scipy label)",
        lambda: _largest_part(organ),
        lambda: postprocess.clean(organ, np.zeros((0, 3)), scan.spacing, how).mask,
        share,
    )
    yield _write("ct", scan, labels, folder, 10.0)
    if network:
        yield _in_turn_or_ahead(path)


def _in_turn_or_ahead(path: Path) -> Row:
    """Three cases are read and computed on: one after the other, or the next read while one is computed."""
    model, image = _model("chest-xray-lungs"), torch.randn(1, 3, 256, 256)

    def run(depth: int) -> NDArray[np.float32]:
        sums = []
        for _, found in read_ahead([path] * 3, lambda each: read_file(each, ReadOptions()), depth):
            assert isinstance(found, Scan), found
            with torch.inference_mode():
                for _ in range(4):
                    model.encode(image)
            sums.append(found.voxels.sum())
        return np.array(sums)

    stage = "three cases read and encoded (naive: in turn)"
    return compare("ct", stage, lambda: run(0), lambda: run(1), rounds=3)


def _read(case: str, path: Path, goal: float | None = None) -> Row:
    return compare(
        case,
        "read .nii.gz (naive: nibabel get_fdata)",
        lambda: np.asarray(nib.load(path).get_fdata())[None],
        lambda: read_file(path, ReadOptions()).voxels,
        note="ours also hashes the file and looks for NaN",
        goal=goal,
    )


def _write(case: str, scan: Scan, labels: NDArray[np.uint8], folder: Path, goal: float | None) -> Row:
    """Both files must hold the labels on the scan's affine."""
    naive, ours = folder / f"{case}_naive.nii.gz", folder / f"{case}_ours.nii.gz"
    names = tuple(Label(int(value), f"organ {value}") for value in np.unique(labels) if value)
    segmentation = Segmentation(labels, names, scan)

    def by_gzip() -> NDArray[Any]:
        naive.write_bytes(gzip.compress(nib.Nifti1Image(labels, scan.affine).to_bytes(), 6, mtime=0))
        return np.array([0])

    def by_us() -> NDArray[Any]:
        write_mask(segmentation, ours, overwrite=True)
        return np.array([0])

    by_gzip()
    by_us()
    stored = [nib.load(path) for path in (naive, ours)]
    apart = share(*(np.asarray(image.dataobj) for image in stored)) + largest(*(image.affine for image in stored))
    sizes = [path.stat().st_size / 1000 for path in (naive, ours)]
    note = f"{sizes[0]:.0f} kB naive, {sizes[1]:.0f} kB ours; {bench_scans.changes(labels):.1f} changes per 100 voxels"
    return compare(case, "write the mask (naive: gzip 6)", by_gzip, by_us, lambda *_: apart, 1e-5, note, goal)


def _paste(case: str, values: NDArray[np.float32], source: Grid, target: Grid) -> Row:
    tensor = torch.from_numpy(values)[None]
    return compare(
        case,
        "paste a probability back onto the scan's grid (naive: scipy order 1)",
        lambda: _by_scipy(values, source, target),
        lambda: resample_in_slabs(tensor, source, target),
        tolerance=NEAR,
    )


def _by_scipy(values: NDArray[np.float32], source: Grid, target: Grid) -> NDArray[np.float32]:
    matrix = np.linalg.inv(source.affine) @ target.affine
    return ndimage.affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], output_shape=target.shape, order=1, mode="grid-constant"
    )


def _by_monai(voxels: torch.Tensor, source: Grid, target: Grid) -> NDArray[np.float32]:
    from monai.data import MetaTensor
    from monai.networks.layers import GaussianFilter
    from monai.transforms import SpatialResample

    step = np.linalg.norm(np.linalg.inv(source.affine)[:3, :3] @ target.affine[:3, :3], axis=1)
    blur = GaussianFilter(3, [max((float(each) - 1) / 2, 1e-3) for each in step])
    smooth = blur(voxels[None])[0] / blur(torch.ones_like(voxels)[None])[0]
    mover = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True, dtype=torch.float32)
    tensor = MetaTensor(smooth, affine=torch.from_numpy(source.affine))
    moved = mover(tensor, dst_affine=torch.from_numpy(target.affine), spatial_size=target.shape)
    return moved.as_tensor().numpy()


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    numbered, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    return numbered == sizes.argmax()


def _model(name: str) -> torch.nn.Module:
    chosen = preset.find(name)
    return medseg_cli.load_model(chosen.pipeline, None, **chosen.model).eval()


def _halves(
    case: str, encode: Callable[[torch.Tensor], Any], decode: Callable[[Any], torch.Tensor], image: torch.Tensor
) -> Iterator[Row]:
    """Encoder and decoder beside `MEDSEG_KERNELS=reference`, in float32."""

    def flat(kept: Any) -> NDArray[np.float32]:
        if isinstance(kept, torch.Tensor):
            return kept.flatten().numpy()
        parts = kept.values() if isinstance(kept, dict) else kept
        return np.concatenate([flat(each) for each in parts])

    def plainly(run: Callable[[], Any]) -> Any:
        with by_formulas():
            return run()

    with torch.inference_mode():
        kept = encode(image)
        naive = "(naive: MEDSEG_KERNELS=reference)"
        yield compare(
            case,
            f"encode {naive}",
            lambda: flat(plainly(lambda: encode(image))),
            lambda: flat(encode(image)),
            relative,
            EXACT,
        )
        yield compare(
            case,
            f"decode {naive}",
            lambda: flat(plainly(lambda: decode(kept))),
            lambda: flat(decode(kept)),
            relative,
            EXACT,
        )


def _sam(image: torch.Tensor, seed: int) -> Iterator[Row]:
    """SAM ViT-B at 1024 px in float32 beside segment_anything, the same random weights."""
    from segment_anything import sam_model_registry

    torch.manual_seed(seed)
    official = sam_model_registry["vit_b"]().eval()
    ours = _model("sam-vit-b")
    ours.load_state_dict(official.state_dict())
    corners = np.random.default_rng(seed).uniform(100, 500, (8, 2))
    boxes = torch.from_numpy(np.concatenate([corners, corners + 300], axis=1)).float()
    with torch.inference_mode():
        kept = ours.encode(image)

        def one_by_one() -> NDArray[np.float32]:
            masks = []
            for box in boxes:
                sparse, dense = official.prompt_encoder(points=None, boxes=box[None], masks=None)
                pe = official.prompt_encoder.get_dense_pe()
                logits, _ = official.mask_decoder(kept["image"], pe, sparse, dense, multimask_output=False)
                masks.append(logits[:, 0])
            return torch.cat(masks).numpy()

        yield compare(
            "ct",
            "encode one slice, ViT-B 1024 px (naive: segment_anything)",
            lambda: official.image_encoder(image).numpy(),
            lambda: ours.encode(image)["image"].numpy(),
            relative,
            EXACT,
            goal=1.45,
            rounds=2,
        )
        yield compare(
            "ct",
            "decode eight boxes (naive: segment_anything, one by one)",
            one_by_one,
            lambda: ours.decode(kept, boxes=boxes)[0].numpy(),
            relative,
            EXACT,
            goal=2.0,
        )
