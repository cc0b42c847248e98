"""`--mirror`: what is asked about a picture and its mirror image does not depend on which of both was given."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from medseg_cli.pipelines.slice_mirror import SliceMirror

Run = Callable[..., tuple[int, str, str]]
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a drawn head that its sector cuts off, and its mirror image."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop("draw_scans", None)
    import draw_scans

    picture, _ = draw_scans.head(np.random.default_rng(3))
    picture = picture.copy()
    picture[:, : picture.shape[1] // 3] //= 4
    Image.fromarray(picture).save(tmp_path / "plain.png")
    Image.fromarray(np.ascontiguousarray(picture[:, ::-1])).save(tmp_path / "turned.png")
    return tmp_path


def mask_of(run: Run, image: Path, *ask: str) -> np.ndarray:
    out = image.with_name(f"{image.stem}_mask.png")
    code, _, said = run(
        "segment", image, "-o", out, "--preset", "fetal-head-us", "--device", "cpu", "--no-redraw", "--overwrite", *ask
    )
    assert code == 0, said
    return np.asarray(Image.open(out)) > 0


def ways(wide: int) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """How the picture and its mirror image are asked alike."""
    return {
        "none": ((), ()),
        "click": (("--point", "200,250"), ("--point", f"{wide - 1 - 200},250")),
        "box": (("--box", "150,140,420,400"), ("--box", f"{wide - 1 - 420},140,{wide - 1 - 150},400")),
    }


@pytest.mark.parametrize("way", ["none", "click", "box"])
def test_the_answer_to_the_mirror_image_is_the_mirror_image_of_the_answer(
    way: str, heads: Path, in_process: Run
) -> None:
    wide = Image.open(heads / "plain.png").width
    one, other = ways(wide)[way]
    plain = mask_of(in_process, heads / "plain.png", "--mirror", *one)
    turned = mask_of(in_process, heads / "turned.png", "--mirror", *other)
    assert plain.any()
    assert (plain != turned[:, ::-1]).sum() <= 2, "sums round otherwise in another order"
    alone = mask_of(in_process, heads / "plain.png", "--no-mirror", *one)
    alone_turned = mask_of(in_process, heads / "turned.png", "--no-mirror", *other)
    assert (alone != alone_turned[:, ::-1]).sum() > 20, "the network itself is not symmetric"


class Echo(nn.Module):
    """Its logits are the picture and the coarse mask, pixel by pixel."""

    size = mask_size = 8

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"image": images.mean(1)}

    def decode(self, embedding: dict[str, Tensor], masks: Tensor, **others: Tensor | None) -> tuple[Tensor, Tensor]:
        return embedding["image"] + masks[:, 0], embedding["image"][:, 0, 0]


def test_coarse_masks_are_mirrored_along_and_scores_are_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    image, mask = torch.randn(1, 3, 8, 8, generator=generator), torch.randn(1, 1, 8, 8, generator=generator)
    network = SliceMirror(Echo())
    logits, score = network.decode(network.encode(image), masks=mask)
    assert torch.allclose(logits, image.mean(1) + mask[:, 0], atol=1e-5)
    assert score is not None
    assert torch.allclose(score, (image.mean(1)[:, 0, 0] + image.mean(1)[:, 0, -1]) / 2)


def test_draws_of_latents_are_compared_as_before(heads: Path, in_process: Run) -> None:
    mask_of(in_process, heads / "plain.png", "--mirror", "--uncertainty", "--samples", "3")
    found = json.loads((heads / "plain_mask.json").read_text())["labels"][0]["spread"]
    assert found["agreement"]["mean"] > 0.5
    assert found["sd_most"] > 0


def test_pictures_that_are_padded_are_refused(in_process: Run, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    code, _, said = in_process(
        "segment", tmp_path / "a.png", "-o", tmp_path / "m.png", "--preset", "chest-xray-lungs", "--mirror"
    )
    assert code == 2
    assert "padding" in said
    assert not (tmp_path / "m.png").exists()
