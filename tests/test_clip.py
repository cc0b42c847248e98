"""The image-text network: key layouts, DHN-NCE, and the maps of its image tower, against the published code's facts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import medseg_cli
from medseg_cli.errors import ModelError
from medseg_cli.models.clip import gradients, m2ib
from medseg_cli.models.clip.checkpoint import random_network, to_hugging_face
from medseg_cli.models.clip.config import ClipConfig
from medseg_cli.models.clip.losses import dhn_nce, dhn_nce_of_scores
from medseg_cli.models.clip.network import Clip, Tower, tower_of

SMALL = {
    "image_size": 32,
    "patch_size": 8,
    "width": 24,
    "depth": 4,
    "heads": 2,
    "vocabulary": 40,
    "context": 12,
    "positions": 16,
    "text_width": 16,
    "text_depth": 2,
    "text_heads": 2,
    "embed": 10,
}
SCORES = torch.tensor([[1.0, 0.2, -0.4], [0.1, 0.8, 0.3], [-0.2, 0.5, 0.9]], dtype=torch.float64)
"""The test vector of the method's specification, divided by the temperature already."""


@pytest.fixture(scope="module")
def network() -> Clip:
    model = random_network(ClipConfig(**SMALL), 3)
    assert isinstance(model, Clip)
    # At initial size all similarities are alike.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tower(network: Clip) -> Tower:
    return tower_of(network)


@pytest.fixture
def picture() -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def text(network: Clip) -> Tensor:
    return network.encode_text(torch.tensor([[1, 7, 9, 2, 0, 0]]))[0]


def test_the_published_size_is_built() -> None:
    with torch.device("meta"):
        model = Clip(ClipConfig())

    assert sum(parameter.numel() for parameter in model.parameters()) == 195_902_721
    assert len(to_hugging_face(model.state_dict())) == 399


@pytest.mark.parametrize("layout", ["open_clip", "wrapped", "training", "hugging_face"])
def test_every_published_layout_gives_the_same_features(layout: str, network: Clip, tmp_path: Path) -> None:
    state = dict(network.state_dict())
    path = tmp_path / "weights.pt"
    if layout == "open_clip":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    elif layout == "wrapped":
        torch.save({f"model.{key}": value for key, value in state.items()}, path)
    elif layout == "training":
        inner = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": inner}, path)
    else:
        positions = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
        torch.save({**to_hugging_face(state), **positions}, path)
    loaded = medseg_cli.load_model("biomedclip", checkpoint=path, **SMALL)
    image, tokens = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5, 2, 0], [1, 8, 9, 2]])

    assert torch.equal(loaded.encode_image(image), network.encode_image(image))
    assert torch.equal(loaded.encode_text(tokens), network.encode_text(tokens))


def test_tensors_that_do_not_fit_are_named(network: Clip, tmp_path: Path) -> None:
    state = dict(network.state_dict())
    del state["text.proj.0.weight"]
    save_file(state, tmp_path / "less.safetensors")

    with pytest.raises(ModelError, match=r"1 keys missing \['text.proj.0.weight'\]"):
        medseg_cli.load_model("biomedclip", checkpoint=tmp_path / "less.safetensors", **SMALL)


def test_padding_changes_nothing(network: Clip) -> None:
    short, padded = torch.tensor([[1, 5, 9, 2]]), torch.tensor([[1, 5, 9, 2, 0, 0, 0]])

    torch.testing.assert_close(network.encode_text(short), network.encode_text(padded))


def test_other_models_of_open_clip_are_read_by_blocks_too() -> None:
    other = medseg_cli.load_model("biomedclip", open_clip="ViT-S-32-alt")
    tower = tower_of(other)
    image = torch.randn(1, 3, 224, 224)

    steps = tower.features(tower.run(tower.tokens(image), 0, len(tower.blocks)))

    assert tower.grid == (7, 7)
    torch.testing.assert_close(steps, other.encode_image(image))


@pytest.mark.parametrize("name", ["RN50", "no-such-model"])
def test_models_without_patches_are_refused(name: str) -> None:
    with pytest.raises(ModelError):
        medseg_cli.load_model("biomedclip", open_clip=name)


@pytest.mark.parametrize(("released", "value"), [(True, -1.4448028843), (False, -0.1643716000)])
def test_the_loss_of_the_test_vector(released: bool, value: float) -> None:
    loss = dhn_nce_of_scores(SCORES, released_code=released)

    assert float(loss) == pytest.approx(value, abs=1e-10)


def test_only_the_paper_pushes_hard_negatives_apart() -> None:
    hard = torch.tensor([[0.2, 3.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.2]], dtype=torch.float64, requires_grad=True)

    (paper,) = torch.autograd.grad(dhn_nce_of_scores(hard), hard)
    (released,) = torch.autograd.grad(dhn_nce_of_scores(hard, released_code=True), hard)

    assert paper[0, 1] > 0
    assert released[0, 1] < 0


@settings(max_examples=25, deadline=None)
@given(size=st.integers(2, 7), seed=st.integers(0, 1000))
def test_the_loss_follows_its_formula(size: int, seed: int) -> None:
    torch.manual_seed(seed)
    images, texts = torch.randn(size, 5), torch.randn(size, 5)
    unit = nn.functional.normalize
    scores = (unit(images) @ unit(texts).T / 0.6).double()
    expected = 0.0
    for s in (scores, scores.T):
        for i in range(size):
            others = [j for j in range(size) if j != i]
            total = sum(torch.exp(0.15 * s[i, k]) for k in others)
            inner = sum((size - 1) * torch.exp(0.15 * s[i, j]) / total * torch.exp(s[i, j]) for j in others)
            expected += float(-s[i, i] + torch.log(torch.as_tensor(inner))) / size

    assert float(dhn_nce(images, texts)) == pytest.approx(expected, abs=1e-5)


def test_pairs_that_are_the_same_are_no_negatives() -> None:
    same = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    scores = SCORES.clone().requires_grad_(True)

    loss = dhn_nce_of_scores(scores, same=same)
    (gradient,) = torch.autograd.grad(loss, scores)

    # Rows 0 and 1 have one negative each, whose weight is 1: -s_ii + s_ij.
    rows = [-1.0 - 0.4, -0.8 + 0.3, float(_row(SCORES[2], 2))]
    columns = [-1.0 - 0.2, -0.8 + 0.5, float(_row(SCORES[:, 2], 2))]
    assert float(loss) == pytest.approx((sum(rows) + sum(columns)) / 3, abs=1e-9)
    assert gradient[0, 1] == gradient[1, 0] == 0


def _row(scores: Tensor, own: int) -> Tensor:
    others = [value for index, value in enumerate(scores.tolist()) if index != own]
    weights = torch.tensor([0.15 * value for value in others], dtype=torch.float64).softmax(0) * len(others)
    return -scores[own] + torch.log((weights * torch.tensor(others, dtype=torch.float64).exp()).sum())


def test_one_pair_has_no_negatives() -> None:
    with pytest.raises(ValueError, match="no negatives"):
        dhn_nce(torch.randn(1, 4), torch.randn(1, 4))


def test_the_bottleneck_begins_as_published() -> None:
    tokens = torch.tensor([[[0.0, 1.0, 2.0]]], dtype=torch.float64)

    found = m2ib.capacity(tokens, torch.full_like(tokens, m2ib.START))

    torch.testing.assert_close(found, 4.506738 + 0.4933295 * tokens**2, atol=2e-6, rtol=0)


def test_the_cached_prefix_changes_nothing(tower: Tower, picture: Tensor, text: Tensor) -> None:
    how = m2ib.Bottleneck(layer=1, beta=0.4, steps=4, copies=3)

    found, _ = m2ib.m2ib(tower, m2ib.prefix(tower, picture, how.layer), text, how, seed=11)

    expected = _m2ib_of_whole_passes(tower, picture, text, how, seed=11)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def _m2ib_of_whole_passes(tower: Tower, picture: Tensor, text: Tensor, how: m2ib.Bottleneck, seed: int) -> Tensor:
    """The published order of work: the bottleneck stands in the network, which runs whole in every step."""
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.full((1, 17, 24), 5.0, requires_grad=True)
    adam = torch.optim.Adam([alpha], lr=how.rate)
    for _ in range(how.steps):
        seen = {}

        def leak(module: nn.Module, given: object, x: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
            opened = torch.sigmoid(alpha).expand(x.shape)
            variance = (1 - opened) ** 2
            mean = x * opened
            seen["capacity"] = -0.5 * (1 + torch.log(variance) - mean**2 - variance)
            return mean + variance.sqrt() * torch.randn(x.shape, generator=generator)

        handle = tower.blocks[how.layer].register_forward_hook(leak)
        features = tower.model.encode_image(picture.expand(how.copies, -1, -1, -1))  # type: ignore[operator]
        handle.remove()
        fit = nn.functional.cosine_similarity(features, text.expand_as(features), eps=1e-6).mean()
        adam.zero_grad()
        (how.beta * seen["capacity"].mean() - fit).backward()
        adam.step()
    return seen["capacity"].mean(0).sum(-1)[1:].reshape(4, 4).detach()


def test_maps_follow_the_seed_alone(tower: Tower, picture: Tensor, text: Tensor) -> None:
    how = m2ib.Bottleneck(layer=2)
    tokens = m2ib.prefix(tower, picture, how.layer)

    first, _ = m2ib.m2ib(tower, tokens, text, how, seed=1)
    torch.randn(100)
    again, _ = m2ib.m2ib(tower, tokens, text, how, seed=1)
    other, _ = m2ib.m2ib(tower, tokens, text, how, seed=2)

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.isfinite().all()


def test_many_steps_stay_finite(tower: Tower, picture: Tensor, text: Tensor) -> None:
    how = m2ib.Bottleneck(layer=1, beta=0.0, steps=60, copies=2)

    found, similarity = m2ib.m2ib(tower, m2ib.prefix(tower, picture, 1), text, how, seed=0)

    assert found.isfinite().all()
    assert similarity.isfinite()


def test_patches_have_no_gradient_where_the_official_map_looks(tower: Tower, picture: Tensor, text: Tensor) -> None:
    seen: list[Tensor] = []
    handle = tower.blocks[-1].norm2.register_forward_hook(lambda module, given, result: seen.append(result))  # type: ignore[union-attr,arg-type]
    picture = picture.requires_grad_(True)
    features = tower.model.encode_image(picture)  # type: ignore[operator]
    handle.remove()

    (gradient,) = torch.autograd.grad(nn.functional.cosine_similarity(features[0], text, dim=0), seen)

    assert gradient[0, 1:].abs().max() == 0
    assert gradient[0, 0].abs().max() > 0


def test_the_corrected_map_follows_the_text_and_the_official_one_hardly(
    network: Clip, tower: Tower, picture: Tensor, text: Tensor
) -> None:
    other = network.encode_text(torch.tensor([[1, 30, 31, 32, 2]]))[0]
    _, gradient = gradients.channels(tower, picture, text, layer=1)

    maps = [gradients.gscore_cam(tower, picture, each, 20.0, 1, top=6) for each in (text, other)]

    assert gradient.mean(dim=(1, 2)).std() > 0
    assert not torch.allclose(maps[0], maps[1])


@pytest.mark.parametrize("official", [True, False])
def test_gscorecam_equals_its_formula(official: bool, tower: Tower, picture: Tensor, text: Tensor) -> None:
    found = gradients.gscore_cam(tower, picture, text, 8.0, 1, top=5, batch=2, official=official)

    expected = _gscorecam_one_by_one(tower, picture, text, 8.0, official=official)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _gscorecam_one_by_one(tower: Tower, picture: Tensor, text: Tensor, scale: float, *, official: bool) -> Tensor:
    if official:
        seen: list[Tensor] = []
        handle = tower.blocks[-1].norm2.register_forward_hook(lambda module, given, result: seen.append(result))  # type: ignore[union-attr,arg-type]
        tower.model.encode_image(picture)  # type: ignore[operator]
        handle.remove()
        maps = seen[0][0, 1:].T.reshape(24, 4, 4)
        chosen = list(range(5))
    else:
        maps, gradient = gradients.channels(tower, picture, text, layer=1)
        chosen = gradient.mean(dim=(1, 2)).argsort(descending=True)[:5].tolist()
    scores = torch.zeros(24)
    for channel in chosen:
        mask = nn.functional.interpolate(maps[channel][None, None], (32, 32), mode="bilinear", align_corners=official)
        mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-6)
        features = tower.model.encode_image(picture * mask)  # type: ignore[operator]
        scores[channel] = scale * nn.functional.cosine_similarity(features[0], text, dim=0)
    weights = (
        scores.softmax(0) if official else torch.zeros(24).index_put((torch.tensor(chosen),), scores[chosen].softmax(0))
    )
    total = (
        sum(weights[channel] * maps[channel] for channel in range(24))
        if not official
        else sum(weights[channel] * maps[channel] for channel in chosen)
    )
    return torch.as_tensor(total).clamp(min=0)
