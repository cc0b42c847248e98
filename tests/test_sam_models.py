"""`load_model("sam")` against the `segment_anything` package: same sizes, same numbers, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from tiny_sam import LARGER, SMALL, save, upstream

from medseg_cli.errors import ModelError
from medseg_cli.frame import Frame
from medseg_cli.models import load_model
from medseg_cli.models.sam.config import VARIANTS, SamConfig, config_of
from medseg_cli.weights.layouts import identify

HEIGHT, WIDTH = 45, 70
"""Of a picture that is neither square nor as large as any network's input."""


@pytest.fixture(scope="module", params=[SMALL, LARGER], ids=["64 px", "256 px"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SamPredictor, Any]:
    sam = upstream(**request.param)
    ours = load_model("sam", save(sam, tmp_path_factory.mktemp("sam") / "tiny.pth"))
    return SamPredictor(sam), ours


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    generator = np.random.default_rng(3)
    smooth = np.kron(generator.integers(0, 256, (9, 14, 3)), np.ones((5, 5, 1)))
    return smooth[:HEIGHT, :WIDTH].astype(np.uint8)


PROMPTS = {
    "click": {"points": [[[20, 11]]], "labels": [[1]]},
    "minus click": {"points": [[[20, 11]]], "labels": [[0]]},
    "clicks": {"points": [[[20, 11], [40, 30]]], "labels": [[1, 0]]},
    "box": {"boxes": [[10, 5, 44, 30]]},
    "box and clicks": {"boxes": [[10, 5, 44, 30]], "points": [[[20, 11], [40, 30]]], "labels": [[1, 0]]},
    "mask": {"masks": True},
    "click and mask": {"points": [[[20, 11]]], "labels": [[1]], "masks": True},
    "nothing": {},
    "three boxes": {"boxes": [[10, 5, 44, 30], [0, 0, 69, 44], [3, 4, 9, 12]]},
    "three clicks apart": {"points": [[[20, 11]], [[3, 40]], [[60, 2]]], "labels": [[1], [1], [1]]},
}


def framed(prompt: dict[str, Any], predictor: SamPredictor, mask_size: int) -> dict[str, torch.Tensor]:
    """The prompt in the square, by upstream's own transform."""
    shape = (HEIGHT, WIDTH)
    tensors: dict[str, torch.Tensor] = {}
    if "points" in prompt:
        tensors["points"] = predictor.transform.apply_coords_torch(torch.tensor(prompt["points"]).float(), shape)
        tensors["labels"] = torch.tensor(prompt["labels"])
    if "boxes" in prompt:
        tensors["boxes"] = predictor.transform.apply_boxes_torch(torch.tensor(prompt["boxes"]).float(), shape)
    if "masks" in prompt:
        rows, columns = torch.meshgrid(torch.arange(mask_size), torch.arange(mask_size), indexing="ij")
        tensors["masks"] = (6.0 - 0.7 * ((rows - 5) ** 2 + (columns - 8) ** 2).sqrt())[None, None]
    return tensors


@pytest.mark.parametrize("name", PROMPTS)
def test_same_answer_as_upstream(pair: tuple[SamPredictor, Any], picture: np.ndarray, name: str) -> None:
    predictor, ours = pair
    predictor.set_image(picture)
    frame = Frame(HEIGHT, WIDTH, ours.size)
    tensors = framed(PROMPTS[name], predictor, ours.mask_size)
    ambiguous = name in ("click", "minus click", "three clicks apart")
    masks, quality, low = predictor.predict_torch(
        tensors.get("points"), tensors.get("labels"), tensors.get("boxes"), tensors.get("masks"), ambiguous, True
    )
    best = quality.argmax(1)
    each = torch.arange(len(best))
    with torch.inference_mode():
        embedding = ours.encode(frame.image(picture)[None])
        logits, scores = ours.decode(embedding, **tensors)
    # The encoder adds up in another order than upstream's (models/vit.py): float32 rounding, which logits multiply.
    torch.testing.assert_close(embedding["image"], predictor.features, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, low[each, best], rtol=0, atol=1e-4)
    torch.testing.assert_close(scores, quality[each, best], rtol=0, atol=1e-5)
    on_picture = frame.restore(logits)
    torch.testing.assert_close(on_picture, masks[each, best], rtol=0, atol=1e-4)
    if name != "nothing":
        assert 0 < float((masks[each, best] > 0).float().mean()) < 1, "a mask of one value would compare nothing"


def test_single_and_several_clicks_in_one_call(pair: tuple[SamPredictor, Any]) -> None:
    """Objects with unlike numbers of clicks share a call by padding; each is answered as if it were alone."""
    _, ours = pair
    images = torch.randn(1, 3, ours.size, ours.size, generator=torch.Generator().manual_seed(1))
    points = torch.tensor([[[9.0, 4.0], [0.0, 0.0]], [[9.0, 4.0], [30.0, 20.0]]])
    labels = torch.tensor([[1, -1], [1, 0]])
    with torch.inference_mode():
        embedding = ours.encode(images)
        together, scores = ours.decode(embedding, points=points, labels=labels)
        both, score = ours.decode(embedding, points=points[1:], labels=labels[1:])
        _, all_scores = ours.mask_decoder(
            embedding["image"],
            ours.prompt_encoder.get_dense_pe(),
            *ours.prompt_encoder((points[:1], labels[:1]), None, None),
        )
    torch.testing.assert_close(together[1:], both, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores[1:], score, rtol=0, atol=1e-6)
    torch.testing.assert_close(scores[0], all_scores[0, 1:].max(), rtol=0, atol=1e-6)


def test_a_batch_is_encoded_like_its_images_one_by_one(pair: tuple[SamPredictor, Any]) -> None:
    _, ours = pair
    images = torch.randn(3, 3, ours.size, ours.size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        together = ours.encode(images)["image"]
        single = torch.cat([ours.encode(image[None])["image"] for image in images])
        prompted, _ = ours(images[:1], boxes=torch.tensor([[1.0, 2.0, 20.0, 30.0]]))
    torch.testing.assert_close(together, single, rtol=0, atol=1e-5)
    assert prompted.shape == (1, ours.mask_size, ours.mask_size)


def test_sizes_are_read_from_the_tensors(tmp_path: Path) -> None:
    ours = load_model("sam", save(upstream(**LARGER), tmp_path / "a.pth"))
    assert ours.config == SamConfig(
        image_size=256,
        embed_dim=24,
        depth=3,
        num_heads=3,
        mlp_dim=48,
        global_attn_indexes=(2,),
        prompt_dim=32,
        mask_in_chans=8,
        decoder_mlp_dim=48,
        iou_dim=20,
    )
    assert (ours.size, ours.mask_size, ours.training) == (256, 64, False)
    # Windows as large as the grid are global attention: the numbers agree whatever it is called.
    same = upstream(**{**SMALL, "window": 4})
    found = load_model("sam", save(same, tmp_path / "b.pth"))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        torch.testing.assert_close(found.encode(images)["image"], same.image_encoder(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_upstreams(variant: str) -> None:
    """Names and shapes of all tensors, without the memory for them."""
    from medseg_cli.models.sam.checkpoint import infer
    from medseg_cli.models.sam.network import Sam

    with torch.device("meta"):
        official = sam_model_registry[variant.replace("-", "_")]()
        ours = Sam(config_of({"variant": variant}))
    state = official.state_dict()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert SamConfig(**infer(state, Path("official.pth"))) == config_of({"variant": variant})
    assert identify(state).layout == f"sam-{variant}"


@pytest.mark.parametrize("wrap", ["state_dict", "model", "module.", "half"])
def test_training_checkpoints_are_unwrapped(tmp_path: Path, wrap: str) -> None:
    sam = upstream(**SMALL)
    state: dict[str, Any] = dict(sam.state_dict())
    if wrap == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    elif wrap == "half":
        state = {key: value.half() for key, value in state.items()}
    else:
        state = {wrap: state, "epoch": 3, "optimizer": torch.optim.AdamW(sam.parameters()).state_dict()}
    torch.save(state, tmp_path / "wrapped.pth")
    ours = load_model("sam", tmp_path / "wrapped.pth")
    expected = sam.mask_decoder.mask_tokens.weight
    expected = expected.half().float() if wrap == "half" else expected
    assert torch.equal(ours.mask_decoder.mask_tokens.weight, expected)
    assert ours.mask_decoder.mask_tokens.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_decoder.hf_token.weight": torch.zeros(1, 32)}, r"1 unexpected \['mask_decoder\.hf_token\.weight'\]"),
        ({"image_encoder.neck.3.bias": None}, r"1 keys missing \['image_encoder\.neck\.3\.bias'\]"),
        ({"image_encoder.neck.3.bias": torch.zeros(5)}, r"neck\.3\.bias is \(5,\), expected \(32,\)"),
        ({"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(63, 8)}, "does not fit sam"),
        ({"image_encoder.blocks.1.attn.rel_pos_h": torch.zeros(63, 8)}, r"position tables of \[5, 63\] rows"),
        ({"image_encoder.blocks.0.attn.rel_pos_h": None}, "no SAM checkpoint|does not fit"),
        ({"image_encoder.pos_embed": torch.zeros(3)}, "its tensors have other shapes|no SAM checkpoint"),
        ({"prompt_encoder.not_a_point_embed.weight": None}, "closest to the layout"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = {**upstream(**SMALL).state_dict(), **change}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=message) as caught:
        load_model("sam", tmp_path / "odd.pth")
    assert str(tmp_path / "odd.pth") in caught.value.message


def test_configuration_is_checked(tmp_path: Path) -> None:
    path = save(upstream(**SMALL), tmp_path / "a.pth")
    assert load_model("sam", path, variant="vit-h", image_size=64).size == 64
    with pytest.raises(ModelError, match="made with image_size 64, not 128"):
        load_model("sam", path, image_size=128)
    with pytest.raises(ModelError, match=r"unknown \['depht'\]"):
        load_model("sam", path, depht=3)
    with pytest.raises(ModelError, match="variant 'vit-x'"):
        load_model("sam", None, variant="vit-x")
    with pytest.raises(ModelError, match="depth cannot be '2'"):
        load_model("sam", None, depth="2")
    with pytest.raises(ModelError, match="embed_dim 24 is not divisible by num_heads 5"):
        load_model("sam", None, embed_dim=24, num_heads=5)


def test_random_weights_come_from_the_seed_alone() -> None:
    tiny = {"image_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "global_attn_indexes": [1]}
    torch.manual_seed(1)
    first = load_model("sam", **tiny)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = load_model("sam", **tiny)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
