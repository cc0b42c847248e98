"""What `medseg doctor` looks at: one `Check` per thing a run needs, found by trying it, never by assuming.

Libraries are imported here by name, not by statement: an installation may lack any of them, which is what is asked.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Literal

from medseg_cli.errors import DeviceError, InputError, MedsegError, ModelError, UsageError

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
TORCH_MINIMUM = (2, 10)
MEMORY_WANTED = 4 * GIB
"""Four float32 copies of a 512 x 512 x 1000 CT."""
DISK_WANTED = 5 * GIB
"""SAM ViT-H, the largest public checkpoint (2.4 GiB), as pulled and as converted."""
KERNEL_TOLERANCE = 1e-4
"""Relative distance to the formula beyond which an operation is wrong, not rounded."""
VARIABLES = {"MEDSEG_HOME", "MEDSEG_KERNELS", "MEDSEG_OFFLINE"}
LIBRARIES = {
    "MONAI": "monai",
    "segment-anything": "segment_anything",
    "nibabel": "nibabel",
    "SimpleITK": "SimpleITK",
    "pydicom": "pydicom",
    "scipy": "scipy",
    "pillow": "PIL",
}
"""distribution name → import name."""


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: what was looked at.
        status: "ok", "warn" (medseg runs, something is slower or missing) or "fail" (a run would end in `exit_code`).
        found: what is there, in one line.
        advice: what to do, empty when nothing is.
        exit_code: the exit code that a run would end with; 0 unless `status` is "fail".
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    exit_code: int = 0


def examine() -> Iterator[Check]:
    """Every check, in the order in which a reader wants them; slow ones are run as they are asked for."""
    yield python()
    torch = torch_library()
    yield torch
    if torch.status != "fail":
        yield from devices()
        yield triton()
        yield kernels()
        yield precision()
    yield from libraries()
    yield dicom_decoders()
    yield memory()
    yield cache()
    yield variables()
    yield from presets()


def python() -> Check:
    """The interpreter and the system it runs on."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "ok", found)
    return Check("python", "warn", found, "medseg is made for Python 3.11 to 3.13")


def torch_library() -> Check:
    """torch and its CUDA; 2.9 is named because its 3-D convolutions are several times slower."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        return Check("torch", "fail", f"does not import: {error}", "pip install 'torch>=2.10'", MedsegError.exit_code)
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    found = f"{torch.__version__}, {cuda}"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version >= TORCH_MINIMUM:
        return Check("torch", "ok", found)
    reason = "2.9 runs conv3d several times slower" if version == (2, 9) else "older than medseg is tested with"
    return Check("torch", "warn", found, f"{reason}: pip install 'torch>=2.10'")


def devices() -> Iterator[Check]:
    """Each device, by a small 3-D convolution that must give what the CPU gives."""
    from medseg_cli import device

    for name in device.available():
        yield _device(name)
    if shutil.which("nvidia-smi") and not any(name.startswith("cuda") for name in device.available()):
        yield Check("cuda", "warn", "an NVIDIA driver is here, but torch finds no usable GPU", _driver_advice())


def triton() -> Check:
    """Triton, which exists for Linux only."""
    try:
        found = metadata.version("triton")
        import_module("triton")
    except (ImportError, metadata.PackageNotFoundError) as error:
        advice = "pip install triton" if platform.system() == "Linux" else ""
        return Check("triton", "warn" if advice else "ok", f"not available: {error}", advice)
    return Check("triton", "ok", found)


def kernels() -> Check:
    """medseg's own operations, against the formula they implement."""
    import torch

    try:
        chosen = import_module("medseg_kernels.dispatch").choice()
    except ValueError as error:
        return Check("kernels", "fail", "no such choice", str(error), UsageError.exit_code)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gaps: dict[str, float] = import_module("medseg_kernels.selfcheck").gaps(where)
    gap, worst = max((gap, name) for name, gap in gaps.items())
    if not gap < KERNEL_TOLERANCE:
        advice = "report this line; MEDSEG_KERNELS=reference avoids it"
        return Check("kernels", "fail", f"{worst} is off by {gap:.1e} on {where}", advice, MedsegError.exit_code)
    if chosen == "reference":
        return Check("kernels", "warn", "MEDSEG_KERNELS=reference: formulas, slow", "unset MEDSEG_KERNELS for speed")
    return Check("kernels", "ok", f"{len(gaps)} operations within {gap:.0e} of their formulas on {where}")


def precision() -> Check:
    """What `--precision auto` comes to here: where bf16 is multiplied in hardware, and what self-checks have found."""
    from medseg_cli import device

    choice = import_module("medseg_cli.pipelines.precision")
    where = import_module("torch").device(device.available()[0])
    name = device.processor(where)
    if not device.has_bf16_units(where):
        return Check("precision", "ok", f"auto is fp32: {name} has no bf16 units")
    kept = list(choice.folder().glob("*.json"))
    found = f"{name} has bf16 units; auto is bf16 where a preset says what it does and a self-check passes"
    return Check("precision", "ok", f"{found} ({len(kept)} kept)")


def libraries() -> Iterator[Check]:
    """What reads, writes and transforms scans."""
    for distribution, module in LIBRARIES.items():
        try:
            import_module(module)
            yield Check(distribution, "ok", metadata.version(distribution))
        except (ImportError, metadata.PackageNotFoundError) as error:
            found = f"does not import: {error}"
            yield Check(distribution, "fail", found, f"pip install {distribution}", MedsegError.exit_code)


def dicom_decoders() -> Check:
    """Compressed transfer syntaxes that pydicom decodes here; SimpleITK reads most of the others."""
    try:
        decoders = import_module("pydicom.pixels.decoders")
    except ImportError as error:
        return Check("dicom", "fail", f"does not import: {error}", "pip install pydicom", MedsegError.exit_code)
    known = [getattr(decoders, name) for name in dir(decoders) if name.endswith("Decoder")]
    compressed = [decoder for decoder in known if decoder.UID.is_encapsulated]
    missing = sorted(decoder.UID.name for decoder in compressed if not decoder.is_available)
    found = f"{len(compressed) - len(missing)} of {len(compressed)} compressed transfer syntaxes decode in pydicom"
    if not missing:
        return Check("dicom", "ok", found)
    return Check("dicom", "ok", f"{found}; left to SimpleITK: {', '.join(missing)}")


def memory() -> Check:
    """What this machine has left for a scan and a network."""
    from medseg_cli.device import host_memory

    free, total = host_memory()
    if not total:
        return Check("memory", "ok", "this system does not tell")
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < MEMORY_WANTED:
        return Check("memory", "warn", found, f"a large CT may need {MEMORY_WANTED // GIB} GiB: close something")
    return Check("memory", "ok", found)


def cache() -> Check:
    """Where pulled weights lie, and whether there is room for more."""
    from medseg_cli.weights import store

    home = store.home()
    exists = next(path for path in (home, *home.parents) if path.exists())
    if not exists.is_dir() or not os.access(exists, os.W_OK):
        found = f"{home} cannot be written"
        return Check("cache", "fail", found, "set MEDSEG_HOME to a folder you can write to", InputError.exit_code)
    free = shutil.disk_usage(exists).free
    found = f"{home}, {free / GIB:.1f} GiB free"
    if free < DISK_WANTED:
        return Check("cache", "warn", found, "free some space, or set MEDSEG_HOME, before pulling weights")
    return Check("cache", "ok", found)


def variables() -> Check:
    """MEDSEG_* variables; one that medseg does not know is most often a typing error."""
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith("MEDSEG_")}
    found = ", ".join(f"{name}={value}" for name, value in given.items()) or "none set"
    if unknown := sorted(given.keys() - VARIABLES):
        advice = f"medseg reads {', '.join(sorted(VARIABLES))}; {', '.join(unknown)} has no effect"
        return Check("variables", "warn", found, advice)
    return Check("variables", "ok", found)


def presets() -> Iterator[Check]:
    """Every preset: valid, and its weights here and unchanged."""
    from medseg_cli import preset

    for name, path in preset.locations().items():
        yield _preset(name, shipped=path.parent == preset.shipped_folder())


def _preset(name: str, shipped: bool) -> Check:
    """Only a shipped preset, or shipped weights, make medseg unusable; the rest are the user's to add."""
    from medseg_cli import preset, weights

    embedded = shipped
    try:
        chosen = preset.find(name)
        embedded = shipped and chosen.weights_file is not None
        resolved = weights.resolve(chosen)
    except ModelError as error:
        status: Status = "fail" if embedded else "warn"
        return Check(f"preset {name}", status, error.message, error.hint, error.exit_code if embedded else 0)
    return Check(f"preset {name}", "ok", f"weights {resolved.path.name}, SHA-256 {resolved.sha256[:12]} verified")


def _device(name: str) -> Check:
    import torch

    from medseg_cli import device

    volume = torch.randn(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    kernel = torch.randn(3, 2, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    convolve = torch.nn.functional.conv3d
    try:
        runtime = device.Runtime(torch.device(name), "fp32", seed=0, deterministic=False)
        result = convolve(volume.to(runtime.device), kernel.to(runtime.device)).cpu()
        free, total = runtime.memory()
    except (RuntimeError, NotImplementedError) as error:
        found = f"a 3-D convolution fails: {str(error).splitlines()[0]}"
        return Check(name, "fail", found, "use --device cpu, or mend the driver", DeviceError.exit_code)
    # TF32 products on recent GPUs keep ten bits.
    if not torch.allclose(result, convolve(volume, kernel), rtol=1e-2, atol=5e-2):
        found = "a 3-D convolution gives wrong numbers"
        return Check(name, "fail", found, "use --device cpu and report this", DeviceError.exit_code)
    threads = (
        f", {torch.get_num_threads()} threads" if name == "cpu" else f", {free / GIB:.1f} of {total / GIB:.1f} GiB"
    )
    return Check(name, "ok", f"{runtime.describe()}{threads}, 3-D convolution checked")


def _driver_advice() -> str:
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA: install one that is built for your driver"
    return f"the driver must support CUDA {torch.version.cuda}: see nvidia-smi, and CUDA_VISIBLE_DEVICES if it is set"
