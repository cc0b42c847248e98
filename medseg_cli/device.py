"""Where a run computes, in which precision, and from which seed: one frozen `Runtime`, chosen once per run.

An unknown or absent device is an error that names what exists; nothing falls back in silence.
"""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from medseg_cli.errors import DeviceError, UsageError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

BF16_CAPABILITY = (8, 0)
"""First CUDA compute capability with bfloat16 matrix units."""


@dataclass(frozen=True)
class Runtime:
    """How one run computes.

    Args:
        device: where; an index is always set for CUDA.
        precision: dtype of matrix products under `autocast`; weights and geometry stay float32.
        seed: what torch, numpy and random start from.
        deterministic: True = only algorithms that give the same bits on every run.
        asked: the precision the user asked for, "auto" included; "" where nobody was asked.
        why: how "auto" came to `precision`, in words; "" where it was not decided or not asked for.
    """

    device: torch.device
    precision: Precision
    seed: int
    deterministic: bool
    asked: str = ""
    why: str = ""

    def seed_everything(self) -> None:
        """Seed Python's, numpy's and torch's generators, and set or unset torch's deterministic mode."""
        import numpy as np
        import torch

        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        torch.manual_seed(self.seed)
        if self.deterministic:
            # cuBLAS reads this when its first handle is made and refuses to be deterministic without it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Setting it at all imports torch's compiler (seconds), so only a change is worth it.
        if torch.are_deterministic_algorithms_enabled() != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = False

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which matrix products run in `precision`; does nothing for fp32."""
        import torch

        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    @property
    def kernels(self) -> str:
        """Which version of medseg's own operations runs here: "triton", "pytorch" or "reference" (the formulas)."""
        from medseg_kernels import dispatch

        if dispatch.use_reference():
            return "reference"
        takes_triton = self.device.type == "cuda" or dispatch.INTERPRETED
        return "triton" if dispatch.HAS_TRITON and takes_triton else "pytorch"

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes on the device; host memory for the CPU and for MPS, which shares it."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.mem_get_info(self.device)
        return host_memory()

    def describe(self) -> str:
        """One line for people: the device and the name of its hardware."""
        if self.device.type == "cuda":
            import torch

            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return str(self.device)


def select(device: str = "auto", precision: str = "auto", seed: int = 0, deterministic: bool = False) -> Runtime:
    """The runtime a user asked for, seeded.

    Args:
        device: "auto" (cuda, else mps, else cpu), "cpu", "cuda", "cuda:N", "mps"; "gpu" and "gpu:N" mean cuda.
        precision: "auto" (bf16 on CUDA devices that have it, else fp32; pipelines then look closer, see
            `pipelines.precision`), "fp32", "bf16" or "fp16".
        seed: any whole number from 0 to 2**63 - 1.
        deterministic: ask torch for bit-equal reruns; an operation that cannot raises.

    Raises:
        UsageError: a word that means nothing here, or a MEDSEG_KERNELS that does.
        DeviceError: a device that this machine lacks, or a precision that the device lacks.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed} is out of range", "use a whole number from 0 to 2**63 - 1")
    _check_kernels()
    chosen = _device(device)
    if chosen.type == "cuda":
        import torch

        # Triton launches on the current device, whatever device its tensors are on.
        torch.cuda.set_device(chosen)
    runtime = Runtime(chosen, _precision(precision, chosen), seed, deterministic, precision.strip().lower())
    runtime.seed_everything()
    return runtime


def available() -> tuple[str, ...]:
    """Names of the devices of this machine, the one `auto` takes first."""
    import torch

    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        names.append("mps")
    return (*names, "cpu")


def host_memory() -> tuple[int, int]:
    """(available, total) bytes of this machine's memory; (0, 0) where the system does not tell."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return (0, 0)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            table = dict(line.split(":", 1) for line in lines)
        return (int(table["MemAvailable"].split()[0]) * 1024, total)
    except (OSError, KeyError):  # macOS has no /proc
        return (total, total)


def has_bf16_units(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16; other devices that compute in it are no faster."""
    if device.type != "cpu":
        return device.type == "cuda" and _has_bf16(device)
    import torch

    capabilities = _cpu_capabilities()
    units = ("amx_bf16", "avx512_bf16", "bf16")
    return any(capabilities.get(unit) for unit in units) or torch.cpu._is_avx512_bf16_supported()


def processor(device: torch.device) -> str:
    """Name of the hardware behind a device."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = _cpu_capabilities().get("cpu_name") if device.type == "cpu" else None
    return name or f"{platform.machine()} {device.type}"


def _cpu_capabilities() -> dict[str, Any]:
    """What torch knows of this CPU; older versions do not tell."""
    import torch

    tell: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return tell()


def _check_kernels() -> None:
    from medseg_kernels import dispatch

    try:
        dispatch.choice()
    except ValueError as error:
        raise UsageError(str(error), "or unset it") from error


def _device(name: str) -> torch.device:
    import torch

    word = name.strip().lower()
    exist = available()
    if word == "auto":
        return torch.device(exist[0])
    kind, colon, index = word.partition(":")
    kind = "cuda" if kind == "gpu" else kind
    if kind not in ("cpu", "cuda", "mps") or (colon and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(f"unknown device '{name}'", "use auto, cpu, cuda, cuda:N or mps")
    wanted = f"cuda:{int(index or 0)}" if kind == "cuda" else kind
    if wanted not in exist:
        raise DeviceError(f"device '{name}' does not exist here{_why_not(kind)}", f"available: {', '.join(exist)}")
    return torch.device(wanted)


def _why_not(kind: str) -> str:
    import torch

    if kind == "cuda" and torch.version.cuda is None:
        return f": torch {torch.__version__} is built without CUDA"
    if kind == "cuda" and not torch.cuda.is_available():
        return ": torch finds no usable NVIDIA driver or GPU"
    return ""


def _precision(name: str, device: torch.device) -> Precision:
    word = name.strip().lower()
    bf16 = _has_bf16(device)
    if word == "auto":
        return "bf16" if device.type == "cuda" and bf16 else "fp32"
    if word not in PRECISIONS:
        raise UsageError(f"unknown precision '{name}'", f"use auto, {', '.join(PRECISIONS)}")
    if word == "bf16" and not bf16:
        major, minor = BF16_CAPABILITY
        raise DeviceError(
            f"bf16 runs on CPUs and on CUDA devices from compute capability {major}.{minor} on, not on {device}",
            "use --precision fp16 or fp32",
        )
    if word == "fp16" and device.type == "cpu":
        raise DeviceError("fp16 is too slow and too coarse on a CPU", "use --precision fp32 or bf16")
    return next(precision for precision in PRECISIONS if precision == word)


def _has_bf16(device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    import torch

    return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
