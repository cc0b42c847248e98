"""A Ray of our own on this machine, or a cluster that exists: joined, looked over, left."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from medseg_cli.batch.ray_nodes import last_line
from medseg_cli.errors import DeviceError, UsageError

logger = logging.getLogger("medseg.batch.ray")

QUIET = {"log_to_driver": False, "configure_logging": False}
"""Workers' lines stay in Ray's files, and what Ray logs goes where ours goes."""
OBJECT_STORE = 80 * 2**20
"""Bytes, just above the least that Ray takes: cases and records travel through it, never voxels."""
JOIN = "run medseg on a node of the cluster, where `ray status` works; without --ray-address Ray runs here alone"
PATIENCE = 10.0
"""Seconds for an address to answer."""
LONGEST = 15
"""Characters of the path of a folder in which Ray's sockets still have paths of 103, the least that systems take."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under `uv run` Ray would send the working directory, scans and all, to every node.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
LOCAL_ENVIRONMENT = {
    # Ray's word for "listen on loopback only", by its origin; any system understands it.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of this machine must not be able to run code through our Ray.
    "RAY_AUTH_MODE": "token",
    # Else workers get what everybody else on this machine leaves.
    "RAY_worker_niceness": "0",
}


@contextlib.contextmanager
def connected(address: str, jobs: int) -> Iterator[Any]:
    """The module `ray`, connected: to a Ray of our own that ends with the block, or to the cluster at `address`.

    Ray's notices go to the log meanwhile.

    Args:
        address: "" for a Ray of our own, which only this machine and this user can reach; "auto" or host:port joins.
        jobs: workers that must fit into a Ray of our own; 0 where nobody asked for a number.

    Raises:
        UsageError: Ray is not installed, or an address of a kind that cannot be joined.
        DeviceError: no such cluster.
    """
    ray = _import(
        ENVIRONMENT if address else {**ENVIRONMENT, **LOCAL_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    )
    folder = tempfile.TemporaryDirectory(prefix="medseg-ray-", dir=_short(), ignore_cleanup_errors=True)
    notices = _Notices(sys.stdout)
    with contextlib.redirect_stdout(notices), folder as place:
        try:
            with _own_sigterm():
                if address:
                    _join(ray, address)
                else:
                    _start(ray, place, jobs)
            yield ray
        finally:
            notices.thread = None  # what Ray has held back is printed here, by our own thread
            ray.shutdown()


def _import(environment: dict[str, str]) -> Any:
    """Ray, with `environment` in effect: it reads most of it once, when it is imported."""
    if "ray" not in sys.modules:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise UsageError("--engine ray needs Ray, which is not installed", "pip install 'medseg[ray]'") from error


def _start(ray: Any, folder: str, jobs: int) -> None:
    # Ray opens its folder to everybody; the one round it stays ours.
    inner = os.path.join(folder, "r")
    cpus = max(_cpus(), jobs)
    options = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE, "_temp_dir": inner}
    try:
        ray.init("local", **options, **QUIET)
    except (RuntimeError, ValueError, OSError) as error:
        logger.info("ray.init: %s", error)
        raise DeviceError(
            f"Ray does not start on this machine: {last_line(error)}",
            "the same cases run without it: leave --engine ray out",
        ) from error


def _join(ray: Any, address: str) -> None:
    """Connect to a cluster; its workers see our MEDSEG_... variables."""
    if "://" in address:
        raise UsageError(f"--ray-address {address}: Ray's client protocol is not supported", "give auto or HOST:PORT")
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal():
            # Ray itself would try for minutes.
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        raise DeviceError(f"nothing answers at {address}: {error.strerror or error}", JOIN) from error
    ours = {name: value for name, value in os.environ.items() if name.startswith("MEDSEG_")}
    try:
        ray.init(address=address, runtime_env={"env_vars": ours} if ours else None, **QUIET)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        logger.info("ray.init: %s", error)
        raise DeviceError(f"no Ray cluster can be joined at {address}: {last_line(error)}", JOIN) from error


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray's own handler of SIGTERM would end the process past everything that tidies up."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


class _Notices(io.TextIOBase):
    """A stdout that sends what Ray's threads print into the log; what our own thread says goes where it went."""

    def __init__(self, ours: TextIO) -> None:
        self._ours = ours
        self.thread: int | None = threading.get_ident()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if threading.get_ident() == self.thread:
            return self._ours.write(text)
        for line in text.splitlines():
            if line.strip():
                logger.info("ray: %s", line.strip())
        return len(text)

    def flush(self) -> None:
        self._ours.flush()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short() -> str | None:
    """Where Ray's sockets can be: a system takes paths of about 100 characters for them; None where that is usual."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > LONGEST and os.path.isdir("/tmp") else None
