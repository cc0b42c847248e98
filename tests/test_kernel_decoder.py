"""The mask decoder's operations against their formulas in float64, written out another way; gradients; every version.

The Triton kernels are tested by the same functions: on a GPU, or in the interpreter in a process that one of the tests
starts, with memory that starts as NaN; another one compiles them for two GPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from medseg_kernels import image_to_token, token_to_image, upscaled_masks
from medseg_kernels.decoder_attention import image_to_token_reference, token_to_image_reference
from medseg_kernels.dispatch import HAS_TRITON, INTERPRETED
from medseg_kernels.upscaled_masks import upscaled_masks_reference
from tolerances import TOLERANCE
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRITON = HAS_TRITON and (INTERPRETED or DEVICE == "cuda")
EPS = 1e-5

launched = pytest.mark.skipif(not TRITON, reason="needs Triton, and TRITON_INTERPRET=1 or a GPU")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs in the interpreter, where their number is what costs."""
    if INTERPRETED:
        from medseg_kernels import decoder_triton

        monkeypatch.setattr(decoder_triton, "PROGRAMS", 4)


CASES = [
    # prompts, with places of their own, places, tokens, heads, channels
    (2, True, 70, 7, 4, 32),
    (3, False, 33, 5, 8, 16),
    (1, True, 1, 1, 2, 16),
    (1, False, 130, 16, 8, 32),
]


def attention_inputs(case: tuple, dtype: torch.dtype) -> dict[str, Tensor]:
    """Sharp logits, and values that matter beside the places."""
    prompts, own, count, tokens, heads, width = case
    rows = heads * tokens
    made = {
        "rows": torch.randn(prompts, rows, width) * 1.5 / width**0.5,
        "places": torch.randn(prompts if own else 1, count, width),
        "position": torch.randn(1, count, width),
        "shift": torch.randn(prompts, rows),
        "values": torch.randn(prompts, rows, width),
        "weight": 1 + 0.3 * torch.randn(width),
        "bias": torch.randn(width),
    }
    return {name: part.to(DEVICE, dtype) for name, part in made.items()}


def asked(given: dict[str, Tensor], op=token_to_image) -> Tensor:
    return op(given["rows"], given["places"], given["position"])


def answered(given: dict[str, Tensor], heads: int, op=image_to_token) -> Tensor:
    norm = (given["weight"], given["bias"], EPS)
    return op(given["places"], given["position"], given["rows"], given["shift"], given["values"], heads, norm)


def written_out(given: dict[str, Tensor], heads: int) -> tuple[Tensor, Tensor]:
    """Both results in float64, prompt by prompt and head by head."""
    given = {name: part.double() for name, part in given.items()}
    to_image, to_token = [], []
    for p, rows in enumerate(given["rows"]):
        x = given["places"][p if len(given["places"]) > 1 else 0]
        where = x + given["position"][0]
        weights = torch.exp(rows @ where.T)
        to_image.append((weights / weights.sum(1, keepdim=True)) @ x)
        total = x.clone()
        for part in torch.arange(len(rows)).to(x.device).chunk(heads):
            weights = torch.exp(where @ rows[part].T + given["shift"][p, part])
            total += (weights / weights.sum(1, keepdim=True)) @ given["values"][p, part]
        away = total - total.mean(1, keepdim=True)
        normal = away / (away.square().mean(1, keepdim=True) + EPS).sqrt()
        to_token.append(normal * given["weight"] + given["bias"])
    return torch.stack(to_image), torch.stack(to_token)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_both_attentions_are_their_formulas(case: tuple, dtype: torch.dtype, poisoned: None) -> None:
    given = attention_inputs(case, dtype)
    expected = written_out(given, case[4])
    with torch.inference_mode():
        results = asked(given), answered(given, case[4])
    for result, exact in zip(results, expected, strict=True):
        assert result.dtype == dtype
        assert distance(result, exact) < TOLERANCE[dtype][0]


@pytest.mark.parametrize("case", CASES)
def test_the_references_are_the_formulas_too(case: tuple) -> None:
    given = attention_inputs(case, torch.float64)
    for result, exact in zip(
        (asked(given, token_to_image_reference), answered(given, case[4], image_to_token_reference)),
        written_out(given, case[4]),
        strict=True,
    ):
        assert distance(result, exact) < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_formulas(case: tuple) -> None:
    heads = case[4]
    given = attention_inputs(case, torch.float32)
    for ours, formula in (
        (asked, lambda parts: asked(parts, token_to_image_reference)),
        (lambda parts: answered(parts, heads), lambda parts: answered(parts, heads, image_to_token_reference)),
    ):
        found = []
        for run, dtype in ((ours, torch.float32), (formula, torch.float64)):
            parts = {name: part.detach().to(dtype).requires_grad_() for name, part in given.items()}
            torch.manual_seed(1)
            result = run(parts)
            result.backward(torch.randn(result.shape).to(result))
            found.append({name: part.grad for name, part in parts.items()})
        for name, exact in found[1].items():
            got = found[0][name]
            if exact is None:
                assert got is None, name
            else:
                assert float((got.double() - exact).norm()) < 1e-5 * float(exact.norm()) + 1e-6, name


def test_any_tensor_alone_may_want_its_gradient() -> None:
    """As with frozen layers in front of one that learns."""
    given = attention_inputs(CASES[0], torch.float32)
    for name in given:
        alone = {each: part.clone().requires_grad_(each == name) for each, part in given.items()}
        assert answered(alone, CASES[0][4]).requires_grad, name
        assert asked(alone).requires_grad == (name in ("rows", "places", "position")), name
    parts = upscaling_inputs(UPSCALINGS[0], torch.float32)
    for index in range(len(parts)):
        result = upscaled([part.clone().requires_grad_(each == index) for each, part in enumerate(parts)], (5, 7))
        assert result.requires_grad, index


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_prompt_and_no_place(dtype: torch.dtype) -> None:
    assert upscaled(upscaling_inputs((0, 2, 3, 16, 16, 16, 3), dtype), (2, 3)).shape == (0, 3, 8, 12)
    for prompts, count in ((0, 9), (2, 0)):
        given = attention_inputs((prompts, prompts > 0, count, 3, 2, 16), dtype)
        with torch.inference_mode():
            assert answered(given, 2).shape == (prompts, count, 16)
            if count:
                assert asked(given).shape == (0, 6, 16)


UPSCALINGS = [
    # prompts, h, w, channels, c1, c2, masks
    (2, 5, 7, 32, 16, 16, 4),
    (1, 3, 1, 16, 32, 16, 1),
]


def upscaling_inputs(case: tuple, dtype: torch.dtype) -> list:
    prompts, h, w, channels, inner, outer, masks = case
    parts = [torch.randn(prompts, h * w, channels), torch.randn(prompts, masks, outer)]
    parts += [torch.randn(4 * inner, channels) / channels**0.5, torch.randn(4 * inner)]
    parts += [1 + 0.3 * torch.randn(inner), torch.randn(inner)]
    parts += [torch.randn(4 * outer, inner) / inner**0.5, torch.randn(4 * outer)]
    return [part.to(DEVICE, dtype) for part in parts]


def upscaled(parts: list, size: tuple[int, int], op=upscaled_masks) -> Tensor:
    places, kernels, first_w, first_b, norm_w, norm_b, second_w, second_b = parts
    return op(places, kernels, size, (first_w, first_b), (norm_w, norm_b, EPS), (second_w, second_b))


def convolved(parts: list, case: tuple) -> Tensor:
    """The transposed convolutions that the two layers are, in float64."""
    _, h, w, channels, inner, outer, _ = case
    places, kernels, first_w, first_b, norm_w, norm_b, second_w, second_b = (part.double() for part in parts)
    picture = places.mT.reshape(len(places), channels, h, w)
    first = first_w.view(2, 2, inner, channels).permute(3, 2, 0, 1)
    x = torch.nn.functional.conv_transpose2d(picture, first, first_b[:inner], stride=2)
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + EPS).sqrt()
    x = x * norm_w[:, None, None] + norm_b[:, None, None]
    x = x * (1 + torch.erf(x / 2**0.5)) / 2
    second = second_w.view(2, 2, outer, inner).permute(3, 2, 0, 1)
    x = torch.nn.functional.conv_transpose2d(x, second, second_b[:outer], stride=2)
    return torch.einsum("pmc,pchw->pmhw", kernels, x * (1 + torch.erf(x / 2**0.5)) / 2)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", UPSCALINGS)
def test_upscaling_is_two_transposed_convolutions(case: tuple, dtype: torch.dtype, poisoned: None) -> None:
    parts = upscaling_inputs(case, dtype)
    for index, width in ((3, case[4]), (7, case[5])):
        parts[index] = parts[index][:width].repeat(4)
    with torch.inference_mode():
        result = upscaled(parts, case[1:3])
    assert result.dtype == dtype
    assert result.shape == (case[0], case[6], 4 * case[1], 4 * case[2])
    assert float((result.double() - convolved(parts, case)).norm()) <= TOLERANCE[dtype][0] * 2 * float(result.norm())


def test_upscaling_has_the_gradients_of_its_formula() -> None:
    parts = upscaling_inputs(UPSCALINGS[0], torch.float32)
    found = []
    for op, dtype in ((upscaled_masks, torch.float32), (upscaled_masks_reference, torch.float64)):
        given = [part.to(dtype).requires_grad_() for part in parts]
        result = upscaled(given, (5, 7), op)
        torch.manual_seed(1)
        found.append(torch.autograd.grad(result, given, torch.randn(result.shape).to(result)))
    for got, exact in zip(*found, strict=True):
        assert distance(got, exact) < 1e-5


def test_operators_are_traced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph, by the version that a compiler gets."""
    given = attention_inputs(CASES[0], torch.float32)
    parts = upscaling_inputs(UPSCALINGS[0], torch.float32)

    def all_three() -> tuple[Tensor, ...]:
        return asked(given), answered(given, 4), upscaled(parts, (5, 7))

    with torch.inference_mode():
        traced = torch.compile(all_three, backend="eager", fullgraph=True)()
        for result, expected in zip(traced, all_three(), strict=True):
            assert distance(result, expected.double()) < 2e-6


@launched
def test_the_kernels_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this file tests where Triton runs is Triton."""
    from medseg_kernels import decoder_triton, upscaled_triton

    called: list[str] = []
    for module, name in (
        (decoder_triton, "token_to_image"),
        (decoder_triton, "image_to_token"),
        (upscaled_triton, "upscaled"),
    ):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, original=original: called.append(name) or original(*a))
    dtype = torch.float32 if INTERPRETED else torch.bfloat16
    given = attention_inputs(CASES[0], dtype)
    asked(given), answered(given, 4), upscaled(upscaling_inputs(UPSCALINGS[0], dtype), (5, 7))
    assert called == ["token_to_image", "image_to_token", "upscaled"]


@pytest.mark.skipif(not HAS_TRITON or TRITON, reason="is what this test starts")
def test_the_kernels_in_the_interpreter(root: Path) -> None:
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "passed" in done.stdout
    assert "failed" not in done.stdout
    assert "2 skipped" in done.stdout, done.stdout[-2000:]


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED, reason="needs Triton, and not its interpreter")
def test_the_kernels_compile_for_gpus_that_are_not_here(root: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root / "kernels")}
    command = [sys.executable, str(Path(__file__).with_name("compile_decoder.py"))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 6, done.stdout
    # Registers that do not fit are kept in memory: none where the block sizes were chosen.
    assert all("STACK:0 " in line for line in lines if "*fp32" not in line), done.stdout
    assert all(int(line.split("STACK:")[1].split()[0]) <= 16 for line in lines), done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("edge", [16, 33, 64])
@pytest.mark.parametrize(("prompts", "tokens"), [(1, 7), (64, 5), (9, 16)])
def test_real_sizes_on_a_gpu(prompts: int, tokens: int, edge: int, dtype: torch.dtype, poisoned: None) -> None:
    given = attention_inputs((prompts, prompts > 1, edge**2, tokens, 8, 256), dtype)
    with torch.inference_mode():
        results = asked(given), answered(given, 8)
    for result, exact in zip(results, written_out(given, 8), strict=True):
        assert distance(result, exact) < max(TOLERANCE[dtype][0], 1e-5)
    parts = upscaling_inputs((prompts, edge, edge, 256, 64, 32, 4), dtype)
    with torch.inference_mode():
        result = upscaled(parts, (edge, edge))
    exact = upscaled([part.double() for part in parts], (edge, edge), upscaled_masks_reference)
    assert distance(result, exact) < 2 * max(TOLERANCE[dtype][0], 1e-5)


def distance(result: Tensor, exact: Tensor) -> float:
    return float((result.detach().double() - exact.detach()).norm() / exact.detach().norm())
