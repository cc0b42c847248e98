"""What every test gets: no network, a home of its own, the shared data where it exists, and the real command line."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = {"127.0.0.1", "::1", "localhost"}

# Before anything imports torch: the default suite is meant for two cores.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))


def pytest_configure(config: pytest.Config) -> None:
    """Interrupts reach the tests, and a busy machine is no failure."""
    try:
        from hypothesis import HealthCheck, settings
    except ImportError:  # a bare GPU machine runs the kernels' tests, which do without
        pass
    else:
        # A check of a submission is the same twice; people look for new examples.
        fixed = "CI" in os.environ
        settings.register_profile(
            "medseg", deadline=None, derandomize=fixed, suppress_health_check=[HealthCheck.too_slow]
        )
        settings.load_profile("medseg")
    # A runner started in the background inherits an ignored SIGINT, and so would every process that a test interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connecting or resolving anything but this machine is an error, in this process."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: Any) -> None:
        if host is not None and host not in LOOPBACK and host != "":
            raise RuntimeError(f"a test tried to reach {host!r}: tests run without a network")

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return real(self, address)

        return call

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(host.decode() if isinstance(host, bytes) else host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", resolve)
        yield


@pytest.fixture(autouse=True)
def medseg_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MEDSEG_HOME of this test: nobody's real weights are read, moved or deleted."""
    for name in [name for name in os.environ if name.startswith("MEDSEG_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "medseg-home"
    monkeypatch.setenv("MEDSEG_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the repository; the test is skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the development data in ../shared, which is not part of the repository")
    return folder


@pytest.fixture
def fifth_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bright_box`, a pipeline from outside, is known during this test."""
    import bright_box

    from medseg_cli import pipelines

    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """`in_process("segment", ...)` runs the command line here, in `tmp_path`: (exit code, stdout, stderr)."""
    from medseg_cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> tuple[int, str, str]:
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["medseg", *words])
        code = app.main(words)
        out, err = capfd.readouterr()
        return code, out, err

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def no_large_files() -> Iterator[None]:
    """The system refuses to write more than 8 kB into a file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory of torch is full of NaN, so that what a kernel does not write is seen."""
    import torch

    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def nan(*args: Any, original: Callable[..., Any] = original, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        monkeypatch.setattr(torch, name, nan)


@dataclass(frozen=True)
class Outcome:
    """What a run of `medseg` left: its exit code, stdout and stderr."""

    rc: int
    stdout: str
    stderr: str


@pytest.fixture
def run_medseg(tmp_path: Path, medseg_home: Path) -> Callable[..., Outcome]:
    """`run_medseg("segment", scan, ...)` runs `python -m medseg_cli` of this checkout in a process of its own.

    The process starts in `tmp_path` (`cwd=` changes that), with no way to the network but loopback, plain text output
    and this test's MEDSEG_HOME; `env=` adds variables, None as a value removes one.
    """

    def run(
        *args: object,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        timeout: float = 300,
    ) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "medseg_cli", *map(str, args)],
            env=medseg_env(medseg_home, env or {}),
            cwd=cwd or tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


def medseg_env(home: Path, changes: Mapping[str, str | None]) -> dict[str, str]:
    """Environment of a `medseg` process under test; also for tests that need `subprocess.Popen` themselves."""
    env: dict[str, str | None] = {k: v for k, v in os.environ.items() if not k.startswith("MEDSEG_")}
    # Interpreted kernels are for the parity tests; a whole network would take minutes in them.
    env.pop("TRITON_INTERPRET", None)
    env |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
        "MEDSEG_HOME": str(home),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        # Nothing listens on the discard port: whatever is not loopback fails at once.
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1,localhost",
    }
    env |= changes
    return {name: value for name, value in env.items() if value is not None}
