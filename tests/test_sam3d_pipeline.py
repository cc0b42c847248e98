"""Pipeline 3dsam-adapter with a tiny network: geometry, several objects, borders, protocols. No trained weights."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg_cli import device, pipelines, preset
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.preset import Preset
from medseg_cli.preset_intensity import ClipZScore
from medseg_cli.prompt import Box, Click, Prompt, Target
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.stages import Stages

TINY = {
    "crop_size": 16, "internal_size": 16, "img_size": 16, "patch_size": 4, "num_slice": 4, "embed_dim": 16, "depth": 4,
    "num_heads": 2, "mlp_ratio": 2, "window_size": 2, "global_attn_indexes": [], "cubic_window_size": 2, "out_chans": 8,
    "prompt_heads": 2, "prompt_mlp_dim": 16, "num_pos_feats": 4, "mlahead_channels": 4, "decoder_scale": 4,
}  # fmt: skip


def tiny(**options: object) -> Preset:
    base = preset.find("hippocampus-mr")
    return base.model_copy(update={"model": TINY, "options": {"max_crops": 4, **options}})


def build(chosen: Preset) -> pipelines.Pipeline:
    return pipelines.build(chosen, device.select("cpu", seed=1), random_weights=True)


def scan_of(voxels: np.ndarray, affine: np.ndarray | None = None, modality: str = "MR") -> Scan:
    affine = np.eye(4) if affine is None else affine
    return Scan(voxels[None].astype(np.float32), affine, Provenance(Path("phantom.nii.gz"), "nifti", ""), modality)


def texture(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape)


def at(*clicks: tuple[float, float, float], frame: str = "ijk", label: str = "") -> Target:
    return Target("1", label, tuple(Click(position, frame) for position in clicks))  # type: ignore[arg-type]


def reorder(scan: Scan, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Scan:
    """The same scan in the same place, stored with other axes."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    voxels = scan.voxels[0].transpose(axes)
    for new, old in enumerate(axes):
        matrix[old, new] = -1.0 if flips[new] else 1.0
        if flips[new]:
            matrix[old, 3] = scan.shape[old] - 1
            voxels = np.flip(voxels, new)
    return scan_of(voxels.copy(), scan.affine @ matrix)


@pytest.fixture(scope="module")
def reference() -> tuple[pipelines.Pipeline, Scan, Segmentation]:
    pipeline = build(tiny())
    affine = np.eye(4)
    affine[:3, 3] = (-20.0, 11.0, 5.0)
    scan = scan_of(texture((26, 22, 20)), affine)
    return pipeline, scan, pipeline.segment(scan, Prompt((at((-8.0, 20.0, 16.0), frame="ras"),)), Stages())


def test_the_reference_is_worth_comparing(reference) -> None:
    _, _, segmentation = reference
    assert 0.02 < (segmentation.mask > 0).mean() < 0.98


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((False, True), repeat=3)))
def test_storage_order_does_not_matter(reference, axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    pipeline, scan, expected = reference
    stored = reorder(scan, axes, flips)
    segmentation = pipeline.segment(stored, Prompt((at((-8.0, 20.0, 16.0), frame="ras"),)), Stages())
    back = np.empty_like(expected.mask)
    mask = segmentation.mask
    for axis, flip in enumerate(flips):
        mask = np.flip(mask, axis) if flip else mask
    back = mask.transpose(np.argsort(axes))
    assert (back != expected.mask).mean() < 1e-3


def test_frames_name_the_same_click(reference) -> None:
    pipeline, scan, expected = reference
    for click in (Click((12.0, 9.0, 11.0), "ijk"), Click((8.0, -20.0, 16.0), "lps")):
        again = pipeline.segment(scan, Prompt((Target("1", "", (click,)),)), Stages())
        assert np.array_equal(again.mask, expected.mask)


def test_objects_get_values_names_and_colours_in_order() -> None:
    targets = (
        Target("a", "left", (Click((5, 5, 5)),)),
        Target("b", "right", (Click((24, 24, 24)),)),
        Target("c", "right", (Click((5, 24, 24)),)),
    )
    result = build(tiny()).segment(scan_of(texture((30, 30, 30))), Prompt(targets), Stages())
    assert [(label.value, label.name) for label in result.labels] == [(1, "left"), (2, "right (b)"), (3, "right (c)")]
    assert len({label.color for label in result.labels}) == 3
    assert result.provenance["weights"]["random"] is True
    assert len(result.provenance["crops"]) == 3
    assert [each["id"] for each in result.provenance["cleaning"]] == ["a", "b", "c"]
    assert [step["step"] for step in result.provenance["cleaning"][0]["steps"]] == ["keep clicked", "fill holes"]


def test_a_second_object_changes_nothing_of_the_first() -> None:
    scan = scan_of(texture((40, 20, 20)))
    pipeline = build(tiny(max_crops=1))
    one, two = Target("a", "", (Click((6, 9, 9)),)), Target("b", "", (Click((33, 9, 9)),))
    alone = pipeline.segment(scan, Prompt((one,)), Stages()).mask
    both = pipeline.segment(scan, Prompt((one, two)), Stages()).mask
    assert np.array_equal(alone[:14] == 1, both[:14] == 1)


def test_the_first_of_two_equal_objects_keeps_its_voxels_and_the_loss_is_said() -> None:
    same = (Click((9, 9, 9)),)
    prompt = Prompt((Target("a", "", same), Target("b", "", same)))
    result = build(tiny(max_crops=1)).segment(scan_of(texture((20, 20, 20))), prompt, Stages())
    assert (result.mask == 1).any()
    assert not (result.mask == 2).any()
    assert any("'b' is empty" in note for note in result.notes)


def test_many_objects_need_uint16() -> None:
    targets = tuple(Target(str(n), "", (Click((8, 8, 8)),)) for n in range(256))
    chosen = tiny(max_crops=1)
    result = build(chosen).segment(scan_of(texture((17, 17, 17))), Prompt(targets), Stages())
    assert result.mask.dtype == np.uint16


@pytest.mark.parametrize("shape", [(1, 30, 30), (30, 30, 1), (3, 4, 5), (1, 1, 1), (40, 16, 16)])
@pytest.mark.parametrize("corner", [0, 1])
def test_any_size_and_any_border(shape: tuple[int, int, int], corner: int) -> None:
    scan = scan_of(texture(shape), np.diag([0.8, 1.3, 2.0, 1.0]))
    click = tuple(float((n - 1) * corner) for n in shape)
    result = build(tiny()).segment(scan, Prompt((at(click),)), Stages())
    assert result.mask.shape == shape


def test_an_unfinished_object_is_said() -> None:
    chosen = tiny(max_crops=1)
    pipeline = build(chosen)
    head = pipeline.model.decoder.cls[3]
    with torch.no_grad():
        head.weight.zero_()
    pipeline.model.decoder.register_forward_hook(lambda m, i, out: torch.stack([out[:, 0] * 0, out[:, 1] * 0 + 5], 1))
    result = pipeline.segment(scan_of(texture((40, 40, 40))), Prompt((at((20, 20, 20)),)), Stages())
    assert any("still grew after 1 crops" in note for note in result.notes)


def test_an_empty_object_is_said() -> None:
    pipeline = build(tiny())
    pipeline.model.decoder.register_forward_hook(lambda m, i, out: torch.stack([out[:, 0] * 0 + 5, out[:, 1] * 0], 1))
    result = pipeline.segment(scan_of(texture((20, 20, 20))), Prompt((at((9, 9, 9)),)), Stages())
    assert not result.mask.any()
    assert any("is empty" in note for note in result.notes)


def test_another_modality_is_said() -> None:
    result = build(tiny()).segment(scan_of(texture((20, 20, 20)), modality="CT"), Prompt((at((9, 9, 9)),)), Stages())
    assert any("the scan is CT" in note for note in result.notes)


def test_wrong_prompts_and_scans_are_refused() -> None:
    pipeline, scan = build(tiny()), scan_of(texture((20, 20, 20)))
    with pytest.raises(UsageError, match="no sign for clicks"):
        pipeline.segment(scan, Prompt((Target("1", "", (Click((9, 9, 9), positive=False),)),)), Stages())
    with pytest.raises(UsageError, match="at least one click"):
        pipeline.segment(scan, Prompt(()), Stages())
    with pytest.raises(InputError, match="outside"):
        pipeline.segment(scan, Prompt((at((9, 9, 40)),)), Stages())
    colour = Scan(np.zeros((3, 8, 8, 1), np.float32), np.eye(4), scan.provenance)
    with pytest.raises(InputError, match="3 colour channels"):
        pipeline.segment(colour, Prompt((at((4, 4, 0)),)), Stages())


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ModelError, match=r"options\.protocol"):
        build(tiny(protocol="fast"))
    with pytest.raises(ModelError, match=r"options\.colour"):
        build(tiny(colour="red"))


def official(axes: tuple[int, int, int]) -> Preset:
    how = ClipZScore(method="clip-zscore", low=50, high=150, mean=100, std=20)
    base = tiny(protocol="official", official_axes=list(axes))
    preprocessing = base.preprocessing.model_copy(update={"intensity": how})
    return base.model_copy(update={"preprocessing": preprocessing})


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0)])
def test_official_protocol_is_one_crop_round_the_clicks(axes: tuple[int, int, int]) -> None:
    pipeline = build(official(axes))
    voxels = texture((40, 36, 32))
    scan = scan_of(voxels)
    clicks = np.array([[20, 18, 15], [22, 17, 14]])
    result = pipeline.segment(scan, Prompt((at(*[tuple(map(float, c)) for c in clicks]),)), Stages())

    ordered, points = voxels.transpose(axes), clicks[:, list(axes)]
    low = np.floor((points.max(0) + points.min(0)) / 2).astype(int) - 8
    place = tuple(slice(a, a + 16) for a in low)
    crop = torch.from_numpy((np.clip(ordered[place], 50, 150) - 100) / 20).float()[None, None]
    local = torch.from_numpy((points - low)[:, [0, 2, 1]]).float()[:, None]
    with torch.inference_mode():
        expected = pipeline.model(crop, local).softmax(1)[0, 1].numpy() > 0.5
    whole = np.zeros(ordered.shape, bool)
    whole[place] = expected
    from medseg_cli.inference import clicked_parts

    whole = whole.transpose(np.argsort(axes))
    mask = result.mask > 0
    assert not (mask & ~_filled(whole)).any()
    assert np.array_equal(mask, _filled(clicked_parts(whole, clicks.astype(float), (1.0, 1.0, 1.0))))


def _filled(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_fill_holes(mask)


def test_official_protocol_needs_official_intensities() -> None:
    pipeline = build(tiny(protocol="official"))
    with pytest.raises(ModelError, match="clip-zscore"):
        pipeline.segment(scan_of(texture((20, 20, 20))), Prompt((at((9, 9, 9)),)), Stages())


def test_the_lattice_is_monais_orientation_and_spacing() -> None:
    """Our one-step resampling reads the same world as MONAI's two transforms do."""
    from monai.data import MetaTensor
    from monai.transforms import Compose, Orientation, Spacing

    from medseg_cli.geometry import Grid, resample

    affine = np.array([[0, -0.8, 0, 12], [0, 0, 2.0, -7], [1.2, 0, 0, 3], [0, 0, 0, 1.0]])
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (14, 20, 9)], indexing="ij"), -1)
    voxels = (index @ affine[:3, :3].T + affine[:3, 3]) @ np.array([1.0, 0.3, -2.0])
    chain = Compose([Orientation("RAS", labels=None), Spacing((1.0, 1.0, 1.0), mode="bilinear")])
    moved = chain(MetaTensor(torch.from_numpy(voxels)[None].float(), affine=torch.from_numpy(affine)))
    target = Grid(moved.affine.numpy().astype(np.float64), tuple(int(n) for n in moved.shape[1:]))
    ours, weight = resample(torch.from_numpy(voxels)[None].float(), Grid(affine, (14, 20, 9)), target, smooth=False)
    inside = weight > 0.999
    assert inside.float().mean() > 0.5
    assert torch.allclose(ours[inside], moved.as_tensor()[inside], atol=1e-3)


def test_minus_clicks_cannot_be_switched_on() -> None:
    base = tiny()
    with pytest.raises(ModelError, match="no sign for clicks"):
        build(base.model_copy(update={"prompts": base.prompts.model_copy(update={"minus": True})}))


def test_boxes_are_refused_not_ignored() -> None:
    target = Target("L", "a", (Click((9, 9, 9)),), (Box((5, 5, 5), (12, 12, 12)),))
    with pytest.raises(UsageError, match="takes clicks only"):
        build(tiny()).segment(scan_of(texture((20, 20, 20))), Prompt((target,)), Stages())


def test_every_label_has_a_name_of_its_own() -> None:
    click = (Click((9, 9, 9)),)
    targets = (Target("L", "a", click), Target("R", "a (L)", click), Target("Q", "a", click))
    result = build(tiny(max_crops=1)).segment(scan_of(texture((20, 20, 20))), Prompt(targets), Stages())
    assert len({label.name for label in result.labels}) == 3


def test_a_picture_is_no_volume() -> None:
    image = Scan(np.random.default_rng(0).normal(size=(1, 20, 20, 1)).astype(np.float32), np.eye(4),
                 Provenance(Path("us.png"), "image", ""))  # fmt: skip
    with pytest.raises(InputError, match="2-D image"):
        build(tiny()).segment(image, Prompt((at((9, 9, 0)),)), Stages())
