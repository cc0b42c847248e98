"""Device, precision and seed: what exists is taken, what does not is refused, nothing falls back in silence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from medseg_kernels import dispatch

from medseg_cli import device
from medseg_cli.errors import DeviceError, UsageError


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda: ("cpu",))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A machine with two CUDA devices; the list holds the compute capability that both report."""
    capability = [(8, 0)]
    monkeypatch.setattr(device, "available", lambda: ("cuda:0", "cuda:1", "cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability[0])
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: current.append(chosen.index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    return capability


@pytest.mark.usefixtures("cpu_only")
def test_auto_without_accelerator_is_the_cpu_in_fp32():
    runtime = device.select()
    assert (str(runtime.device), runtime.precision, runtime.seed, runtime.deterministic) == ("cpu", "fp32", 0, False)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("name", ["cuda", "gpu", "cuda:1", "mps"])
def test_an_absent_device_is_an_error_that_names_what_exists(name: str):
    with pytest.raises(DeviceError) as caught:
        device.select(name)
    assert f"'{name}'" in caught.value.message
    assert caught.value.hint == "available: cpu"


@pytest.mark.parametrize("name", ["", "tpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:0", "gpu0"])
def test_an_unknown_word_is_a_usage_error(name: str):
    with pytest.raises(UsageError, match="unknown device"):
        device.select(name)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("auto", "cuda:0"),
        ("cuda", "cuda:0"),
        ("gpu", "cuda:0"),
        ("GPU:1", "cuda:1"),
        ("cuda:1", "cuda:1"),
        ("cpu", "cpu"),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_cuda_comes_first_and_always_has_an_index(name: str, chosen: str):
    assert str(device.select(name).device) == chosen


@pytest.mark.usefixtures("two_gpus")
def test_triton_is_for_tensors_on_the_device_that_was_chosen(monkeypatch: pytest.MonkeyPatch):
    """It launches on the current device, whatever device its tensors are on."""
    for name, value in (("INTERPRETED", False), ("HAS_TRITON", True), ("capable", lambda _: True)):
        monkeypatch.setattr(dispatch, name, value)
    tensors = [SimpleNamespace(dtype=torch.float32, is_cuda=True, device=torch.device("cuda", n)) for n in (0, 1)]
    for index, name in enumerate(("cuda:0", "cuda:1")):
        device.select(name)
        assert [dispatch.use_triton(tensor) for tensor in tensors] == [index == 0, index == 1]  # type: ignore[arg-type]


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_number_beyond_the_last_is_refused():
    with pytest.raises(DeviceError) as caught:
        device.select("cuda:2")
    assert caught.value.hint == "available: cuda:0, cuda:1, cpu"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_follows_the_compute_capability(two_gpus, capability: tuple[int, int], precision: str):
    two_gpus[0] = capability
    assert device.select("cuda").precision == precision


def test_bf16_on_an_old_gpu_is_refused(two_gpus):
    two_gpus[0] = (7, 5)
    with pytest.raises(DeviceError, match="bf16"):
        device.select("cuda", "bf16")
    assert device.select("cuda", "fp16").precision == "fp16"


def test_precision_words():
    assert device.select("cpu", "bf16").precision == "bf16"
    with pytest.raises(DeviceError, match="fp16"):
        device.select("cpu", "fp16")
    with pytest.raises(UsageError, match="unknown precision 'int8'"):
        device.select("cpu", "int8")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_sets_the_dtype_of_matrix_products(precision: str, dtype: torch.dtype):
    a = torch.ones(2, 2)
    with device.select("cpu", precision).autocast():
        assert (a @ a).dtype == dtype


def test_one_seed_gives_one_sequence_in_torch_and_numpy():
    def draw(seed: int) -> tuple[float, float]:
        device.select("cpu", seed=seed)
        return torch.rand(()).item(), float(np.random.rand())

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_a_usage_error(seed: int):
    with pytest.raises(UsageError, match="out of range"):
        device.select("cpu", seed=seed)


def test_deterministic_sets_torch_and_its_absence_unsets_it():
    device.select("cpu", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    device.select("cpu")
    assert not torch.are_deterministic_algorithms_enabled()


def test_memory_is_within_the_machine():
    free, total = device.select("cpu").memory()
    assert 0 < free <= total


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_the_real_machine_says_so():
    assert device.available()[-1] == "cpu"
    with pytest.raises(DeviceError, match="torch"):
        device.select("cuda")


@pytest.mark.gpu
def test_a_real_gpu_computes_in_its_automatic_precision():
    runtime = device.select("cuda")
    a = torch.ones(16, 16, device=runtime.device)
    with runtime.autocast():
        assert (a @ a).sum().item() == 16**3
    free, total = runtime.memory()
    assert 0 < free <= total


def test_the_version_of_the_operations_is_told(monkeypatch: pytest.MonkeyPatch):
    on_cpu, on_gpu = (device.Runtime(torch.device(name), "fp32", 0, False) for name in ("cpu", "cuda:0"))
    monkeypatch.setattr("medseg_kernels.dispatch.INTERPRETED", False)
    monkeypatch.setattr("medseg_kernels.dispatch.HAS_TRITON", True)
    assert (on_cpu.kernels, on_gpu.kernels) == ("pytorch", "triton")
    monkeypatch.setattr("medseg_kernels.dispatch.HAS_TRITON", False)
    assert on_gpu.kernels == "pytorch"
    monkeypatch.setenv("MEDSEG_KERNELS", "reference")
    assert (on_cpu.kernels, on_gpu.kernels) == ("reference", "reference")


def test_an_unknown_version_of_the_operations_is_a_usage_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDSEG_KERNELS", "fast")
    with pytest.raises(UsageError, match="use triton or reference"):
        device.select("cpu")
