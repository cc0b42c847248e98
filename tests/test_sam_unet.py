"""SAM-UNet without the development data: sizes, keys, loading, starting points, behaviour and loss."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor
from torchvision.models import resnet34, resnet50

import medseg_cli
from medseg_cli import preset as presets
from medseg_cli.datasets import Case
from medseg_cli.errors import InputError, ModelError
from medseg_cli.models.sam_unet.checkpoint import random_network
from medseg_cli.models.sam_unet.config import SamUnetConfig, config_of
from medseg_cli.models.sam_unet.losses import focal_dice
from medseg_cli.models.sam_unet.network import SamUnet
from medseg_cli.models.sam_unet.start import begin
from medseg_cli.pipelines import sam_unet_official as official
from medseg_cli.pipelines.sam_unet_recipe import SamUnetRecipe
from medseg_cli.weights import path as weights_path

TINY: dict[str, Any] = {
    "image_size": 64, "embed_dim": 16, "depth": 8, "num_heads": 2, "window_size": 3,
    "global_attn_indexes": (1, 3, 5, 7), "prompt_dim": 16, "mask_in_chans": 4, "decoder_heads": 2,
    "decoder_mlp_dim": 16, "stem": 4, "layers": (1, 1, 1, 1),
}  # fmt: skip
NOT_IN_THE_SHAPES = {"decoder_heads": 2}
BOX = torch.tensor([[8.0, 10.0, 40.0, 50.0]])


@pytest.fixture(scope="module")
def network() -> SamUnet:
    return random_network(SamUnetConfig(**TINY), 0).eval()


def pictures(*shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand((3, *shape), generator=generator) * 255 for shape in shapes]


# Numbers of the paper's authors' code, section 1 of the specification.
@pytest.mark.parametrize(
    ("backbone", "keys", "total", "trained", "resnet", "adapters"),
    [
        ("res34", 559, 116_019_884, 29_347_244, 21_284_672, (567_168, 493_056, 197_376, 722_432)),
        ("res50", 661, 138_428_204, 51_755_564, 23_508_032, (6_690_048, 5_508_864, 787_200, 9_178_880)),
    ],
)
def test_published_sizes(
    backbone: str, keys: int, total: int, trained: int, resnet: int, adapters: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        network = SamUnet(config_of({"backbone": backbone}))
    network.freeze()
    assert len(network.state_dict()) == keys
    assert count(network) == total
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trained
    assert {name: count(part) for name, part in network.named_children()} == {
        "image_encoder": 86_672_640,
        "prompt_encoder": 6_220,
        "mask_decoder": 3_542_368,
        "resnet": resnet,
        "adapters_in": sum(adapters),
        "adapters_bridge": 2_460_000,
        "embedding_encoder": 73_952,
    }
    assert tuple(count(adapter) for adapter in network.adapters_in) == adapters


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("backbone", "theirs"), [("res34", resnet34), ("res50", resnet50)])
def test_keys_are_those_of_sam_and_torchvision(backbone: str, theirs: Callable[[], torch.nn.Module]) -> None:
    """Shapes and names of every part that is not new come from the packages, here through their own constructors."""
    with torch.device("meta"):
        own = {key: value.shape for key, value in SamUnet(config_of({"backbone": backbone})).state_dict().items()}
        sam = sam_model_registry["vit_b"]().state_dict()
        resnet = theirs().state_dict()
    expected = {}
    for key, value in sam.items():
        part, rest = key.split(".", 1)
        name = {"image_encoder": "sam_img_encoder", "prompt_encoder": "sam_prompt_encoder"}.get(part)
        if name is not None:
            expected[f"{part}.{name}.{rest}"] = value.shape
        elif rest.startswith(("transformer", "output_upscaling")):
            expected[f"{part}.sam_mask_decoder.{rest}"] = value.shape
    for key, value in resnet.items():
        first, rest = key.split(".", 1)
        name = {"conv1": "stage0.0", "bn1": "stage0.1"}.get(first, first.replace("layer", "stage"))
        if first != "fc":
            expected[f"resnet.{name}.{rest}"] = value.shape
    new = ("adapters_in.", "adapters_bridge.", "embedding_encoder.")
    new += ("mask_decoder.med_token", "mask_decoder.hf_mlp", "mask_decoder.embedding_maskfeature")
    rest = {key for key in own if not key.startswith(new)}
    assert rest == expected.keys()
    smaller = {key for key in rest if own[key] != expected[key]}
    tables = {f"blocks.{block}.attn.rel_pos_{axis}" for block in (2, 5, 8, 11) for axis in "hw"}
    assert smaller == {f"image_encoder.sam_img_encoder.{name}" for name in {"pos_embed", *tables}}
    assert {"mask_decoder.med_token.weight", "mask_decoder.hf_mlp.layers.2.bias"} <= own.keys()
    assert {"adapters_in.0.reshaper.6.weight", "adapters_in.3.reshaper.3.bias"} <= own.keys()
    assert {"adapters_bridge.2.3.weight", "embedding_encoder.3.bias"} <= own.keys()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_size": 100}, "multiple of 32"),
        ({"patch_size": 24, "image_size": 96}, "power of two"),
        ({"global_attn_indexes": (2, 5, 8)}, "four ascending blocks"),
        ({"global_attn_indexes": (2, 5, 8, 12)}, "below depth 12"),
        ({"num_heads": 7}, "divisible by num_heads"),
        ({"prompt_dim": 100}, "prompt_dim"),
        ({"backbone": "res18"}, "res18"),
        ({"layers": (3, 4)}, "four numbers"),
        ({"depth": 0}, "depth cannot be 0"),
        ({"depth": True}, "depth cannot be True"),
        ({"iou_head": 1}, "unknown"),
        ({"resnet_stem": 8, "resnet_channels": [8, 16, 32, 65]}, "resnet_channels"),
    ],
)
def test_impossible_configurations_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        medseg_cli.load_model("sam-unet", **values)


def test_random_weights_come_from_the_seed_alone() -> None:
    config = SamUnetConfig(**TINY)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (random_network(config, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["resnet.stage0.0.weight"], other["resnet.stage0.0.weight"])
    assert first["image_encoder.sam_img_encoder.pos_embed"].std() > 0.01


def official_file(state: dict[str, Tensor], kind: str) -> dict[str, Any]:
    if kind == "state dict":
        return state
    parameter = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.Adam([parameter], lr=1e-4)
    parameter.sum().backward()
    optimiser.step()
    prefix = "module." if kind == "distributed training" else ""
    return {"model": {prefix + key: value for key, value in state.items()}, "optimizer": optimiser}


@pytest.mark.parametrize("kind", ["state dict", "training", "distributed training", "safetensors"])
@pytest.mark.parametrize("backbone", ["res34", "res50"])
def test_every_layout_loads_and_needs_no_sizes(tmp_path: Path, kind: str, backbone: str) -> None:
    made = random_network(SamUnetConfig(**TINY, backbone=backbone), 3).eval()
    path = tmp_path / "epoch7_sam_unet.pth"
    if kind == "safetensors":
        save_file(made.state_dict(), path)
    else:
        torch.save(official_file(made.state_dict(), kind), path)
    again = medseg_cli.load_model("sam-unet", checkpoint=path, backbone=backbone, **NOT_IN_THE_SHAPES)
    assert isinstance(again, SamUnet)
    assert again.config == made.config
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(state[key], value) for key, value in made.state_dict().items())


def test_another_pickled_object_is_refused_and_not_run(network: SamUnet, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (tmp_path / "sprung",)

    torch.save({"model": network.state_dict(), "optimizer": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ModelError, match="pickled object"):
        medseg_cli.load_model("sam-unet", checkpoint=tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def spoil(state: dict[str, Tensor], how: str) -> None:
    if how == "missing":
        del state["adapters_in.0.reshaper.1.bias"]
    elif how == "missing mark":
        del state["mask_decoder.med_token.weight"]
    elif how == "unexpected":
        state["mask_decoder.iou_head.weight"] = torch.zeros(1)
    elif how == "shape":
        state["embedding_encoder.3.bias"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"1 keys missing \['adapters_in.0.reshaper.1.bias'\]"),
        ("missing mark", "lacks mask_decoder.med_token.weight"),
        ("unexpected", r"1 unexpected \['mask_decoder.iou_head.weight'\]"),
        ("shape", r"embedding_encoder.3.bias is \(3,\), expected \(2,\)"),
    ],
)
def test_misfits_are_named(network: SamUnet, tmp_path: Path, how: str, words: str) -> None:
    state = network.state_dict()
    spoil(state, how)
    torch.save({"model": state}, tmp_path / "spoilt.pth")
    with pytest.raises(ModelError, match=words):
        medseg_cli.load_model("sam-unet", checkpoint=tmp_path / "spoilt.pth", **NOT_IN_THE_SHAPES)


def test_sizes_given_must_be_those_of_the_file(network: SamUnet, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    for values, words in (
        ({"backbone": "res50"}, "made with backbone res34, not res50"),
        ({"num_heads": 4}, "heads 2"),
    ):
        with pytest.raises(ModelError, match=words):
            medseg_cli.load_model("sam-unet", checkpoint=tmp_path / "tiny.pth", **NOT_IN_THE_SHAPES, **values)


def test_import_of_a_training_file(network: SamUnet, tmp_path: Path, run_medseg: Callable[..., Any]) -> None:
    """`medseg weights import` keeps the tensors alone; what it stores is what the network loads."""
    torch.save(official_file(network.state_dict(), "distributed training"), tmp_path / "epoch7_sam_unet.pth")
    done = run_medseg("weights", "import", tmp_path / "epoch7_sam_unet.pth", "--name", "sam-unet")
    assert done.rc == 0, done.stderr
    stored = medseg_cli.load_model("sam-unet", checkpoint=weights_path("sam-unet"), **NOT_IN_THE_SHAPES).state_dict()
    assert all(torch.equal(stored[key], value) for key, value in network.state_dict().items())


def sam(size: int) -> Sam:
    """A SAM whose transformer has the sizes of TINY, for images of `size` pixels, with random tables."""
    torch.manual_seed(2)
    norm = lambda width: torch.nn.LayerNorm(width, eps=1e-6)  # noqa: E731
    made = Sam(
        ImageEncoderViT(
            img_size=size, embed_dim=16, depth=8, num_heads=2, out_chans=16, norm_layer=norm, use_rel_pos=True,
            window_size=3, global_attn_indexes=(1, 3, 5, 7),
        ),
        PromptEncoder(16, (size // 16, size // 16), (size, size), 4),
        MaskDecoder(
            transformer_dim=16,
            transformer=TwoWayTransformer(depth=2, embedding_dim=16, num_heads=2, mlp_dim=16),
        ),
    ).eval()  # fmt: skip
    for name, parameter in made.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter)
    return made


def test_a_start_from_sam_is_sam(tmp_path: Path) -> None:
    """At SAM's own size and without the ResNet's contributions, the encoder's embedding is SAM's."""
    theirs = sam(64)
    torch.save(theirs.state_dict(), tmp_path / "sam.pth")
    network, fresh = begin(TINY, 0, [tmp_path / "sam.pth"])
    network.eval()
    for adapter in network.adapters_in:
        torch.nn.init.zeros_(adapter.reshaper[-1].weight)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(network.encode(images)["image"], theirs.image_encoder(images), atol=1e-6)
        sparse, dense = theirs.prompt_encoder(None, BOX, None)
        own_sparse, own_dense = network.embed(BOX, None, None, None)
    assert torch.equal(own_sparse, sparse)
    assert torch.equal(own_dense, dense)
    sams = ("image_encoder.", "prompt_encoder.", "mask_decoder.sam_mask_decoder.")
    assert set(fresh) == {name for name, _ in network.named_parameters() if not name.startswith(sams)}


def test_the_recipe_begins_with_sam(tmp_path: Path) -> None:
    torch.save(sam(128).state_dict(), tmp_path / "sam.pth")
    preset = presets.find("sam-unet").model_copy(update={"model": TINY})
    network = SamUnetRecipe(preset, tmp_path / "sam.pth").model(4)
    expected = begin(TINY, 4, [tmp_path / "sam.pth"])[0].state_dict()
    assert all(torch.equal(expected[key], value) for key, value in network.state_dict().items())


def test_wrong_options_of_a_preset_are_named_in_a_training(tmp_path: Path) -> None:
    for name in ("scan", "mask"):
        Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), 8)).save(tmp_path / f"{name}.png")
    preset = presets.find("sam-unet").model_copy(update={"options": {"slices": "diagonal"}})
    with pytest.raises(ModelError, match=r"options\.slices"):
        SamUnetRecipe(preset, None).load(Case("a", tmp_path / "scan.png", tmp_path / "mask.png"))


def test_a_start_from_sam_halves_its_tables(tmp_path: Path) -> None:
    state = sam(128).state_dict()
    torch.save(state, tmp_path / "sam.pth")
    network, _ = begin(TINY, 0, [tmp_path / "sam.pth"])
    vit = network.image_encoder.sam_img_encoder
    # Half the size, bilinear without corners aligned: the mean of each 2 x 2.
    means = state["image_encoder.pos_embed"].unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))
    assert torch.allclose(vit.pos_embed, means, atol=1e-6)
    places = (np.arange(7) + 0.5) * 15 / 7 - 0.5
    table = state["image_encoder.blocks.3.attn.rel_pos_w"].numpy()
    expected = np.stack([np.interp(places, np.arange(15), column) for column in table.T], axis=1)
    assert np.allclose(vit.blocks[3].attn.rel_pos_w.detach().numpy(), expected, atol=1e-6)
    assert torch.equal(vit.blocks[2].attn.rel_pos_w, state["image_encoder.blocks.2.attn.rel_pos_w"])
    drawn = random_network(SamUnetConfig(**TINY), 0).state_dict()
    assert torch.equal(network.state_dict()["mask_decoder.med_token.weight"], drawn["mask_decoder.med_token.weight"])


@pytest.mark.parametrize(("backbone", "theirs"), [("res34", resnet34), ("res50", resnet50)])
def test_a_start_from_imagenet_is_torchvisions_resnet(
    tmp_path: Path, backbone: str, theirs: Callable[[], torch.nn.Module]
) -> None:
    torch.manual_seed(0)
    resnet = theirs().eval()
    # As in torchvision's older files.
    torch.save({k: v for k, v in resnet.state_dict().items() if "num_batches" not in k}, tmp_path / "resnet.pth")
    sizes = {**TINY, "backbone": backbone, "stem": 64, "layers": (3, 4, 6, 3)}
    network = begin(sizes, 0, [tmp_path / "resnet.pth"])[0].eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
        expected = [x := layer(x) for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)]
        stages = network.resnet(image)
    assert all(torch.allclose(mine, his, atol=1e-5) for mine, his in zip(stages, expected, strict=True))
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(ModelError, match="does not fit"):
        begin({**sizes, "stem": 32}, 0, [tmp_path / "resnet.pth"])


def test_a_sam_unet_starts_another_and_sam_is_no_sam_unet(network: SamUnet, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "unet.pth")
    begun, fresh = begin(NOT_IN_THE_SHAPES, 9, [tmp_path / "unet.pth"])
    state = begun.state_dict()
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert not fresh
    torch.save(sam(64).state_dict(), tmp_path / "sam.pth")
    with pytest.raises(ModelError, match="layout 'sam-width-16', not 'sam-unet'"):
        medseg_cli.load_model("sam-unet", checkpoint=tmp_path / "sam.pth")


def test_masks_lie_on_the_original_image(network: SamUnet) -> None:
    wide, tall = pictures((40, 64), (64, 20))
    batch = [
        {"image": wide, "original_size": (100, 160), "boxes": BOX.repeat(3, 1)},
        {"image": tall, "original_size": (33, 10), "boxes": None},
    ]
    first, second = network(batch)
    assert first["masks"].shape == (3, 1, 100, 160)
    assert second["masks"].shape == (1, 1, 33, 10)
    assert first["masks"].dtype == torch.bool
    assert first["low_res_logits"].shape == (3, 1, 16, 16)
    assert (network.size, network.mask_size) == (64, 16)


def test_a_moved_box_moves_the_mask(network: SamUnet) -> None:
    (image,) = pictures((64, 64))
    boxes = torch.cat([BOX, BOX + 12])
    low = network([{"image": image, "original_size": (64, 64), "boxes": boxes}])[0]["low_res_logits"]
    assert (low[0] - low[1]).abs().max() > 1e-3


def test_prompts_and_images_together_are_the_same_one_by_one(network: SamUnet) -> None:
    """Prompts of unequal length, with and without points, boxes and masks, in one batch."""
    images = pictures((64, 64), (64, 48), (30, 64), (64, 64))
    points = {"point_coords": torch.rand(2, 3, 2) * 60, "point_labels": torch.tensor([[1, 0, -1], [1, 1, 0]])}
    prompts: list[dict[str, Tensor]] = [
        {"boxes": torch.cat([BOX, BOX + 5, BOX - 3])},
        points,
        {},
        {**points, "boxes": BOX.repeat(2, 1), "mask_inputs": torch.randn(2, 1, 16, 16)},
    ]
    batch = [
        {"image": image, "original_size": (50, 50), **prompt} for image, prompt in zip(images, prompts, strict=True)
    ]
    for item, output in zip(batch, network(batch), strict=True):
        count = len(output["masks"])
        assert count == max([len(value) for key, value in item.items() if key in ("boxes", "point_coords")] + [1])
        embedding = network.encode(network.frame(item["image"])[None])
        for index in range(count):
            own = {
                key: value[index : index + 1] for key, value in item.items() if key not in ("image", "original_size")
            }
            alone = network([{**item, **own}])[0]["low_res_logits"]
            assert torch.allclose(alone, output["low_res_logits"][index : index + 1], atol=1e-5)
            names = {"boxes": "boxes", "points": "point_coords", "labels": "point_labels", "masks": "mask_inputs"}
            with torch.inference_mode():
                decoded, _ = network.decode(embedding, **{name: own.get(key) for name, key in names.items()})
            assert torch.allclose(decoded, output["low_res_logits"][index], atol=1e-5)


def test_nothing_is_predicted_in_the_padding(network: SamUnet) -> None:
    logits = torch.full((1, 1, 16, 16), -5.0)
    logits[..., 9:] = 50.0  # an image of 64 x 32 ends at column 8; interpolation reaches half a cell further
    assert not (network.restore(logits, (64, 32), (640, 320)) > 0).any()
    assert (network.restore(logits, (64, 64), (640, 640)) > 0).any()


def test_the_padding_is_the_mean_colour(network: SamUnet) -> None:
    grey = torch.tensor([123.675, 116.28, 103.53])[:, None, None].expand(3, 20, 64)
    assert float(network.frame(grey).abs().max()) < 1e-6
    assert network.frame(pictures((20, 64))[0])[:, 20:].abs().max() == 0


def test_images_that_do_not_fit_are_refused(network: SamUnet) -> None:
    for shape in ((3, 65, 30), (1, 64, 64), (3, 0, 64), (64, 64)):
        with pytest.raises(ModelError, match="image of shape"):
            network([{"image": torch.zeros(shape), "original_size": (64, 64)}])


POINTS, POINT_LABELS = torch.rand(2, 3, 2), torch.ones(2, 3)
WRONG_PROMPTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"boxes": BOX, "points": POINTS, "labels": POINT_LABELS}, "1 boxes, 2 {points}, 2 {labels}"),
    ({"points": POINTS}, "{points} without {labels}"),
    ({"labels": POINT_LABELS}, "{labels} without {points}"),
    ({"points": POINTS, "labels": POINT_LABELS[:, :2]}, "(2, 3, 2) and {labels} (2, 2) differ"),
    ({"points": POINTS, "labels": POINT_LABELS[..., None]}, "{labels} of shape (2, 3, 1)"),
    ({"points": POINTS[0], "labels": POINT_LABELS[0]}, "{points} of shape (3, 2)"),
    ({"boxes": BOX[0]}, "boxes of shape (4,)"),
    ({"boxes": BOX.reshape(1, 2, 2)}, "boxes of shape (1, 2, 2)"),
    ({"boxes": BOX.tolist()}, "boxes is list, no tensor"),
    ({"masks": torch.zeros(1, 1, 64, 64)}, "{masks} of shape (1, 1, 64, 64)"),
    ({"masks": torch.zeros(1, 16, 16)}, "{masks} of shape (1, 16, 16)"),
)
"""Arguments of `decode`, and what is said about them."""


@pytest.mark.parametrize(("prompts", "words"), WRONG_PROMPTS)
@pytest.mark.parametrize("door", ["forward", "training", "decode", "sam"])
def test_prompts_that_cannot_be_meant_are_refused(
    network: SamUnet, tiny_sam: torch.nn.Module, door: str, prompts: dict[str, Any], words: str
) -> None:
    names = {"boxes": "boxes", "points": "points", "labels": "labels", "masks": "masks"}
    if door in ("forward", "training"):
        names = {"boxes": "boxes", "points": "point_coords", "labels": "point_labels", "masks": "mask_inputs"}
        item = {"image": pictures((64, 64))[0], "original_size": (64, 64)}
        given = {names[key]: value for key, value in prompts.items()}
        model = copy.deepcopy(network).train(door == "training")
        with pytest.raises(ModelError, match=re.escape(words.format(**names))) as caught:
            model([item, {**item, **given}])
    else:
        model = network if door == "decode" else tiny_sam
        with pytest.raises(ModelError, match=re.escape(words.format(**names))) as caught:
            model.decode({}, **prompts)
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.fixture(scope="module")
def tiny_sam() -> torch.nn.Module:
    return medseg_cli.load_model(
        "sam", image_size=64, embed_dim=16, depth=2, num_heads=2, mlp_dim=16, global_attn_indexes=(1,), prompt_dim=16,
        mask_in_chans=4, decoder_heads=2, decoder_mlp_dim=16,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"boxs": BOX}, "unknown key boxs", "boxes"),
        ({"image": None}, "image is NoneType", "(3, h, w)"),
        ({"image": np.zeros((3, 64, 64))}, "image is ndarray", "(3, h, w)"),
        ({"image": torch.full((3, 64, 64), torch.nan)}, "image holds NaN", ""),
        ({"image": torch.full((3, 64, 64), torch.inf)}, "image holds NaN or infinity", ""),
        ({"boxes": BOX * torch.nan}, "boxes holds NaN", ""),
        ({"mask_inputs": torch.full((1, 1, 16, 16), -torch.inf)}, "mask_inputs holds NaN or infinity", ""),
        ({"original_size": None}, "original_size is None", "(H, W)"),
        ({"original_size": 64}, "original_size is 64", "(H, W)"),
        ({"original_size": (3, 64, 64)}, "original_size is (3, 64, 64)", "(H, W)"),
        ({"original_size": (0, 64)}, "original_size is (0, 64)", "(H, W)"),
    ],
)
def test_items_that_cannot_be_meant_are_refused(
    network: SamUnet, changes: dict[str, Any], words: str, hint: str
) -> None:
    item = {"image": pictures((64, 64))[0], "original_size": (64, 64), "boxes": BOX}
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        network([item, {**item, **changes}])
    assert hint in caught.value.hint


def test_a_batch_is_a_list_of_items(network: SamUnet) -> None:
    item = {"image": pictures((64, 64))[0].to(torch.uint8), "original_size": torch.Size((64, 64)), "boxes": BOX}
    for batch, words in ((item, "no list"), ([item["image"]], "no list"), (item["image"], "no list"), ([], "is empty")):
        with pytest.raises(ModelError, match=words):
            network(batch)
    assert len(network(({**item, "labels": torch.zeros(1, 1, 64, 64)},))) == 1, "whole numbers and labels are welcome"


def test_training_goes_through_the_frozen_transformer(network: SamUnet) -> None:
    network = copy.deepcopy(network).train()
    network.freeze()
    outputs = network([{"image": image, "boxes": BOX} for image in pictures((64, 64), (64, 40))])
    assert [tuple(output["masks"].shape) for output in outputs] == [(1, 1, 64, 64)] * 2
    sum(output["masks"].sum() for output in outputs).backward()
    gradients = {name for name, value in network.named_parameters() if value.grad is not None}
    assert "adapters_in.0.reshaper.0.weight" in gradients
    assert "resnet.stage0.0.weight" in gradients
    assert not any(name.startswith("image_encoder.") for name in gradients)


def test_each_mask_counts_alike_unless_the_official_loss_is_asked_for() -> None:
    labels = torch.zeros(2, 1, 32, 32)
    labels[0, :, :30] = 1
    labels[1, :, 3:5, 3:5] = 1
    logits = torch.where(labels > 0, 20.0, -20.0)
    logits[1] = -20.0  # the small object is missed altogether
    assert 20 * 0.35 < float(focal_dice(logits, labels)) < 20 * 0.5
    assert float(focal_dice(logits, labels, "official")) < 20 * 0.01


def test_the_loss_leaves_padding_alone_and_learns_from_confident_mistakes() -> None:
    labels = torch.zeros(1, 1, 8, 8)
    labels[..., :4] = 1
    inside = torch.ones(1, 1, 8, 8)
    inside[..., 6:] = 0
    right = torch.where(labels > 0, 9.0, -9.0)
    wrong_outside = torch.where(inside > 0, right, torch.tensor(9.0))
    assert float(focal_dice(wrong_outside, labels, inside=inside)) == float(focal_dice(right, labels, inside=inside))
    assert float(focal_dice(wrong_outside, labels)) > float(focal_dice(right, labels)) + 1
    gradients = []
    for form in ("per-mask", "official"):
        logits = torch.full((1, 1, 2, 2), -120.0, requires_grad=True)
        focal_dice(logits, torch.ones(1, 1, 2, 2), form).backward()
        assert logits.grad is not None
        gradients.append(float(logits.grad.abs().sum()))
    assert gradients[0] > 0.1
    assert gradients[1] == 0


def test_official_masks_lose_soft_edges_and_stray_parts() -> None:
    grey = np.zeros((20, 20), np.uint8)
    grey[2:10, 2:10] = 255
    grey[2, 2:10] = 254
    grey[15:17, 15:17] = 255
    mask = official.binary(grey)
    assert int(mask.sum()) == 7 * 8 + 4
    assert official.box_of(mask).tolist() == [2, 3, 10, 10]
    assert official.binary(grey // 2).max() == 127


def test_what_the_official_protocol_cannot_do_is_said() -> None:
    with pytest.raises(InputError, match="empty"):
        official.box_of(np.zeros((4, 4), np.uint8))
    line = np.full((1, 999, 3), 100, np.uint8)
    with pytest.raises(InputError, match="999 x 1"):
        official.test_item(line, np.ones((1, 999), np.uint8))
