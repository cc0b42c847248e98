"""SAM-UNet against the outputs of the official code (fixtures made on fixed random weights, see the specification)."""

from __future__ import annotations

import copy
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import medseg_cli
from medseg_cli.models.sam_unet.checkpoint import random_network
from medseg_cli.models.sam_unet.config import config_of
from medseg_cli.models.sam_unet.losses import DICE_WEIGHT, focal_dice, official_dice, official_focal
from medseg_cli.models.sam_unet.network import SamUnet
from medseg_cli.models.sam_unet.start import resize_sam
from medseg_cli.pipelines import sam_unet_official as official

TOLERANCE = 1e-5
"""Of the largest expected value; seen are 2.4e-6 (small) and 6e-6 (full).

That is float32: on the small network a float64 run of the same equations lies as far from the fixture (2e-6).
"""


def synthetic(key: str, shape: list[int]) -> Tensor:
    """Weights as a pure function of name and shape, the rule of the fixtures."""
    z = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    name = key.rsplit(".", 1)[-1]
    if name == "num_batches_tracked":
        return torch.tensor(3)
    if name == "running_mean":
        z = 0.1 * z
    elif name == "running_var":
        z = 1 + 0.5 * abs(z)
    elif name == "pos_embed":
        z = 0.5 * z
    elif name.startswith("rel_pos"):
        z = 0.2 * z
    elif len(shape) == 1:
        z = 0.1 * z if name == "bias" else 1 + 0.1 * z
    elif name != "positional_encoding_gaussian_matrix" and not (len(shape) == 2 and shape[0] == 1):
        z = z / np.sqrt(np.prod(shape[1:]))
        if any(part in key for part in ("cross_attn", "final_attn", "self_attn")):
            z = 2 * z
    return torch.from_numpy(np.asarray(z).astype(np.float16).astype(np.float32))


def regenerate(fixture: dict[str, Any]) -> dict[str, Tensor]:
    return {key: synthetic(key, shape) for key, shape in fixture["state_dict_keys_shapes"].items()}


def batch(fixture: dict[str, Any], case: str) -> list[dict[str, Any]]:
    images, sizes = fixture["images_uint8"], fixture["original_sizes"]
    inputs = fixture["cases"][case]["inputs"]
    return [
        {"image": image.float(), "original_size": tuple(size), **prompts}
        for image, size, prompts in zip(images, sizes, inputs, strict=True)
    ]


def close(actual: Tensor, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Largest error relative to the largest expected value; large maps are stored as every fourth pixel + checksum."""
    if isinstance(expected, dict):
        assert list(actual.shape) == expected["shape"]
        same_sum(actual, expected["checksum"], tolerance)
        actual, expected = actual[..., ::4, ::4], expected["every4"]
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"relative error {error:.2e}"


def same_sum(actual: Tensor, checksum: list[float], tolerance: float = TOLERANCE) -> None:
    """Sum, sum of magnitudes, first and last element, as the fixtures have them."""
    values = actual.detach().double().flatten()
    got = [values.sum(), values.abs().sum(), values[0], values[-1]][: len(checksum)]
    largest = float(values.abs().max())
    for mine, theirs, scale in zip(got, checksum, [checksum[1], checksum[1], largest, largest], strict=False):
        assert abs(float(mine) - theirs) <= tolerance * scale, (mine, theirs)


@pytest.fixture(scope="module")
def small(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "parity" / "sam_unet_small.pt", weights_only=True)


@pytest.fixture(scope="module")
def full(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "parity" / "sam_unet_io34.pt", weights_only=True)


@pytest.fixture(scope="module")
def aux(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "parity" / "sam_unet_aux.pt", weights_only=True)


@pytest.fixture(scope="module")
def model(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SamUnet:
    path = tmp_path_factory.mktemp("official") / "epoch3_sam_unet.pth"
    torch.save({"model": regenerate(small)}, path)
    # The sizes are given in the official code's words and must agree with those that the tensors' shapes tell.
    known = {k: v for k, v in small["meta"]["config"].items() if k != "resnet_channels"}
    network = medseg_cli.load_model("sam-unet", checkpoint=path, **known)
    assert isinstance(network, SamUnet)
    assert network.config == config_of(small["meta"]["config"])
    return network


def test_weights_are_those_of_the_fixture(small: dict[str, Any], model: SamUnet) -> None:
    assert list(model.state_dict()) == list(small["state_dict_keys_shapes"])
    for key, value in model.state_dict().items():
        same_sum(value, small["state_dict_checksums"][key], 1e-9)


def test_image_encoder_step_by_step(small: dict[str, Any], model: SamUnet) -> None:
    expected = small["cases"]["box1"]["intermediate"]
    vit = model.image_encoder.sam_img_encoder
    with torch.inference_mode():
        images = torch.stack([model.frame(image) for image in small["images_uint8"]])
        close(images, expected["normalised_padded_input"])
        stages = model.resnet(images)
        adapted = [adapter(stage) for adapter, stage in zip(model.adapters_in, stages, strict=True)]
        for mine, theirs in zip([*stages, *adapted], [*expected["resnet"], *expected["adapters_in_BCHW"]], strict=True):
            close(mine, theirs)
        tokens = vit.patch_embed(images)
        close(tokens, expected["patch_embed_BHWC"])
        tokens = tokens + vit.pos_embed
        for index in (0, 1):
            tokens = vit.blocks[index](tokens)
            close(tokens, expected["block_out_BHWC"][index])
        embedding = model.encode(images)
    close(embedding["image"], expected["image_embeddings"])
    close(embedding["multi_scale"], expected["multi_scale_feature"])
    close(model.position(), expected["image_pe"])


def test_bridges_are_used_in_reverse(small: dict[str, Any], model: SamUnet) -> None:
    expected = small["cases"]["box1"]["intermediate"]
    blocks = [expected["block_out_BHWC"][index] for index in (8, 5, 2)]
    with torch.inference_mode():
        for bridge, block, theirs in zip(model.adapters_bridge, blocks, expected["adapters_bridge_BCHW"], strict=True):
            close(bridge(block.permute(0, 3, 1, 2)), theirs)
        close(model.embedding_encoder(expected["image_embeddings"]), expected["embedding_encoder_BCHW"])


def test_mask_decoder_step_by_step(small: dict[str, Any], model: SamUnet) -> None:
    case = small["cases"]["box1"]
    seen: dict[str, Any] = {}
    parts = {
        "transformer": model.mask_decoder.sam_mask_decoder.transformer,
        "hyper": model.mask_decoder.hf_mlp,
    }
    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name, part in parts.items()
    ]
    for index, (inputs, expected) in enumerate(zip(case["inputs"], case["outputs"], strict=True)):
        embedding = {
            "image": case["intermediate"]["image_embeddings"][index : index + 1],
            "multi_scale": case["intermediate"]["multi_scale_feature"][index : index + 1],
        }
        with torch.inference_mode():
            low, scores = model.decode(embedding, boxes=inputs["boxes"])
            sparse, dense = model.embed(inputs["boxes"], None, None, None)
        assert scores is None
        close(sparse, expected["sparse_embeddings"])
        assert torch.equal(dense[0, :, 3, 4], expected["dense_embeddings_const"])
        close(seen["transformer"][0], expected["transformer_tokens"])
        close(seen["transformer"][1], expected["transformer_image"])
        close(seen["hyper"], expected["hyper"])
        with torch.inference_mode():
            upscaled = model.mask_decoder.upscaled(seen["transformer"][1], embedding["image"].shape[2:])
            close(upscaled, expected["output_upscaling"])
            # The last of these convolutions is folded with the token; the logits below are the test of that.
            close(model.mask_decoder.embedding_maskfeature(upscaled), expected["embedding_maskfeature"])
        close(low[:, None], expected["low_res_logits"])
    for hook in hooks:
        hook.remove()


CASES = ("box1", "box5", "points", "points_boxes", "masks", "boxes_masks", "noprompt")


@pytest.mark.parametrize("case", CASES)
def test_masks_of_every_kind_of_prompt(small: dict[str, Any], model: SamUnet, case: str) -> None:
    check_masks(model, small, case)


def check_masks(network: SamUnet, fixture: dict[str, Any], case: str) -> None:
    items = batch(fixture, case)
    for item, mine, theirs in zip(items, network(items), fixture["cases"][case]["outputs"], strict=True):
        close(mine["low_res_logits"], theirs["low_res_logits"])
        assert mine["masks"].dtype == torch.bool
        assert mine["masks"].shape == theirs["masks"].shape
        assert (mine["masks"] != theirs["masks"]).float().mean() < 1e-4
        logits = network.restore(mine["low_res_logits"], item["image"].shape[-2:], item["original_size"])
        same_sum(logits, theirs["mask_logits_checksum"], 2e-5)
        if "mask_logits" in theirs:
            close(logits, theirs["mask_logits"])


def test_masks_as_prompts_are_embedded_the_same(small: dict[str, Any], model: SamUnet) -> None:
    for inputs, theirs in zip(*(small["cases"]["masks"][part] for part in ("inputs", "outputs")), strict=True):
        with torch.inference_mode():
            sparse, dense = model.embed(None, None, None, inputs["mask_inputs"])
        assert sparse.shape == (2, 0, 256)
        same_sum(dense, theirs["dense_embeddings"]["checksum"])
        close(dense[:1], theirs["dense_embeddings"]["first_prompt"])


def test_half_precision_keeps_the_masks(small: dict[str, Any], model: SamUnet) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(batch(small, "points_boxes"))
    for mine, theirs in zip(outputs, small["cases"]["points_boxes"]["outputs"], strict=True):
        pair = (mine["low_res_logits"].float().flatten(), theirs["low_res_logits"].flatten())
        assert torch.cosine_similarity(*pair, dim=0) > 0.99
        assert (mine["masks"] == theirs["masks"]).float().mean() > 0.98


def test_what_is_frozen(small: dict[str, Any], model: SamUnet) -> None:
    network = copy.deepcopy(model)
    network.freeze()
    assert [name for name, value in network.named_parameters() if value.requires_grad] == small["trainable"]


def test_one_training_step(small: dict[str, Any], model: SamUnet) -> None:
    """Forward, official loss, gradients, Adam and BatchNorm's averages, as the official code made them."""
    expected = small["train_step"]
    network = copy.deepcopy(model).train()
    network.freeze()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    outputs = network(batch(small, "box5"))
    for mine, theirs in zip(outputs, expected["low_res_logits"], strict=True):
        close(mine["low_res_logits"], theirs)
        assert list(mine["masks"].shape) == expected["masks_shape"]
    logits = torch.cat([each["masks"] for each in outputs])
    labels = torch.cat(expected["labels_uint8"]).float()
    loss = focal_dice(logits, labels, "official")
    assert float(official_focal(logits, labels).detach()) == pytest.approx(expected["focal"], rel=1e-5)
    assert float(official_dice(logits, labels).detach()) == pytest.approx(expected["dice"], rel=1e-5)
    assert float(loss.detach()) == pytest.approx(expected["loss"], rel=1e-5)
    loss.backward()

    gradients = {name: value.grad for name, value in network.named_parameters() if value.requires_grad}
    assert gradients.keys() == expected["grad_checksums"].keys()
    untouched = {name for name, gradient in gradients.items() if gradient is None}
    assert untouched == {name for name, checksum in expected["grad_checksums"].items() if checksum is None}
    assert len(untouched) == 13
    for name, gradient in gradients.items():
        # A shift of all keys changes no softmax: those gradients are zero but for rounding.
        if gradient is not None and not name.endswith("k_proj.bias"):
            same_sum(gradient, expected["grad_checksums"][name], 2e-4)

    optimiser.step()
    state = network.state_dict()
    for name, checksum in expected["buffer_checksums_after_step"].items():
        same_sum(state[name], checksum)
    parameters, before = dict(network.named_parameters()), dict(model.named_parameters())
    for name, checksum in expected["param_checksums_after_adam_step"].items():
        # Adam's first step is +-1e-4 whatever the gradient's size; its sign is chance where the gradient is rounding.
        assert abs(float(parameters[name].double().sum()) - checksum[0]) < 2e-6 * parameters[name].numel() + 1e-3, name
        assert float((parameters[name] - before[name]).detach().abs().max()) < 1.1e-4

    for output, label, theirs in zip(
        outputs, expected["labels_uint8"], expected["metrics_iou_dice_per_image"], strict=True
    ):
        iou, dice = official.scores(output["masks"].detach(), label)
        assert [float(iou.mean()), float(dice.mean())] == pytest.approx(theirs, abs=1e-4)


def test_published_size_on_one_box(full: dict[str, Any], tmp_path: Path) -> None:
    check_masks(published(full, tmp_path), full, "box1")


@pytest.mark.slow
def test_published_size_on_every_prompt(full: dict[str, Any], tmp_path: Path) -> None:
    network = published(full, tmp_path)
    for key, value in network.state_dict().items():
        same_sum(value, full["state_dict_checksums"][key], 1e-9)
    for case in CASES:
        check_masks(network, full, case)


def published(full: dict[str, Any], folder: Path) -> SamUnet:
    torch.save(regenerate(full), folder / "res34.pth")
    network = medseg_cli.load_model("sam-unet", checkpoint=folder / "res34.pth", backbone="res34")
    (folder / "res34.pth").unlink()
    assert isinstance(network, SamUnet)
    return network


@pytest.mark.parametrize("backbone", ["res34", "res50"])
def test_official_keys_shapes_and_freezing(shared: Path, backbone: str) -> None:
    listed = []
    for line in (shared / "specs" / "samunet_state_dict.txt").read_text("utf-8").splitlines():
        if line.startswith("# ====="):
            wanted = f"{backbone}_sam_unet" in line
        elif wanted and " | " in line and not line.startswith("#"):
            listed.append(tuple(line.split(" | ")))
    with torch.device("meta"):
        network = SamUnet(config_of({"backbone": backbone}))
    network.freeze()
    kinds = {name: "T" if value.requires_grad else "F" for name, value in network.named_parameters()}
    own = [
        (name, str(tuple(value.shape)), str(value.dtype).removeprefix("torch."), kinds.get(name, "B"))
        for name, value in network.state_dict().items()
    ]
    assert len(own) == {"res34": 559, "res50": 661}[backbone]
    assert own == listed


def test_items_of_a_training(aux: dict[str, Any]) -> None:
    pictures = aux["dataset"]["raw"].values()
    for raw, expected in zip(pictures, aux["dataset"]["train_items"], strict=True):
        seed = expected["random_seed_stdlib_and_numpy"]
        masks = [mask.numpy() for mask in raw["masks"]]
        choices, draws = random.Random(seed), np.random.RandomState(seed)
        item = official.train_item(raw["image_rgb"].numpy(), masks, choices, draws)
        check_item(item, expected)


def test_items_of_a_test(aux: dict[str, Any]) -> None:
    raw = [
        (each["image_rgb"].numpy(), mask.numpy()) for each in aux["dataset"]["raw"].values() for mask in each["masks"]
    ]
    for (image, mask), expected in zip(raw, aux["dataset"]["test_items"], strict=True):
        check_item(official.test_item(image, mask), expected)


def check_item(item: dict[str, Any], expected: dict[str, Any]) -> None:
    assert torch.equal(item["image"], expected["image"])
    assert torch.equal(item["labels"], expected["labels"])
    assert list(item["original_size"]) == expected["original_size"]
    assert torch.allclose(item["boxes"], expected["boxes"], rtol=0, atol=2e-5)


def test_boxes_and_their_noise(aux: dict[str, Any]) -> None:
    for case in aux["boxes"]:
        mask, draws = case["mask"].numpy(), np.random.RandomState(case["numpy_seed"])
        moved = np.stack([official.box_of(mask, official.MOST_NOISE, draws) for _ in range(6)])
        assert np.array_equal(moved, case["train_noise_6_draws"].numpy())
        assert np.array_equal(official.box_of(mask)[None], case["test_no_noise"].numpy())


def test_shapes_after_the_resize(aux: dict[str, Any]) -> None:
    for name, expected in aux["resize_shape_hw"].items():
        height, width = map(int, name.split("x"))
        assert list(official.resized_shape(height, width)) == expected


def test_official_losses(aux: dict[str, Any]) -> None:
    case = aux["loss"]
    focal, dice = official_focal(case["logits"], case["labels"]), official_dice(case["logits"], case["labels"])
    assert float(focal) == pytest.approx(case["focal"], rel=1e-6)
    assert float(dice) == pytest.approx(case["dice"], rel=1e-6)
    total = focal_dice(case["logits"], case["labels"], "official")
    assert float(total) == pytest.approx(case["total_focal_plus_20dice"], rel=1e-6)
    assert DICE_WEIGHT == 20


@pytest.mark.parametrize("kind", ["from_logits", "from_bool_masks", "all_positive_logits_quirk"])
def test_official_scores(aux: dict[str, Any], kind: str) -> None:
    case = aux["metrics"]
    predicted = {
        "from_logits": case["logits"],
        "from_bool_masks": case["logits"] > 0,
        "all_positive_logits_quirk": case["all_positive_logits_quirk_input"],
    }[kind]
    iou, dice = official.scores(predicted, case["labels"])
    assert iou.tolist() == pytest.approx(case[kind]["iou"], abs=1e-6)
    assert dice.tolist() == pytest.approx(case[kind]["dice"], abs=1e-6)
    assert [float(iou.mean()), float(dice.mean())] == pytest.approx(case[kind]["mean"], abs=1e-6)
    empty = torch.zeros(1, 1, 4, 4)
    assert official.scores(empty, empty)[1].tolist() == case["both_empty"]


def test_sam_at_1024_becomes_256(aux: dict[str, Any]) -> None:
    case = aux["sam1024_to_256"]
    resized = resize_sam(case["in"], config_of(aux["meta"]["config"]))
    assert resized.keys() == case["out"].keys()
    for key, expected in case["out"].items():
        assert torch.allclose(resized[key], expected, rtol=0, atol=1e-6), key
        assert torch.equal(resized[key], case["in"][key]) == (key not in case["resized_keys"]), key


def test_reduced_sizes_follow_from_the_official_names(aux: dict[str, Any]) -> None:
    config = config_of(aux["meta"]["config"])
    tables = random_network(config, 0).state_dict()
    assert tables["image_encoder.sam_img_encoder.blocks.8.attn.rel_pos_h"].shape == (31, 12)
