"""A batch as a Slurm job array, through submitit: every task is the same command with its own `--shard`.

Tasks share nothing but the input and the output folder, where each case has a record of its own. A task that meets its
time limit or is preempted is put into the queue again by submitit, and goes on where it was.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg_cli.batch import slurm_settings, workspace
from medseg_cli.errors import SOME_FAILED, DeviceError, MedsegError, UsageError

if TYPE_CHECKING:
    import submitit

OWN_OPTIONS = ("--engine", "--shards", "--slurm", "--json")
"""Options of the submitting command that its tasks do not get; those below take a value."""
FLAGS = ("--json",)
REQUEUES = 20
"""How often a task may go on after its time limit."""
PATIENCE = 60.0
"""Seconds in which a task that must end writes what it is writing."""
LOCAL = ("local", "debug")
"""submitit's executors without a cluster: for trying it out."""


@dataclass(frozen=True)
class Submitted:
    """What was handed in.

    Args:
        jobs: ids of the tasks.
        folder: scripts and logs.
        codes: exit codes of tasks on this machine, which were waited for; () on a cluster.
    """

    jobs: tuple[str, ...]
    folder: Path
    codes: tuple[int, ...] = ()


@dataclass
class ShardTask:
    """One task of the array; it travels to its node as a pickle.

    Args:
        words: of the command line behind `medseg`.
        folder: where relative paths start.
    """

    words: tuple[str, ...]
    folder: str
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __call__(self) -> int:
        """Run the shard; its exit code.

        Raises:
            MedsegError: the shard ended with an error, so that Slurm counts the task as failed. Failed cases are none.
        """
        # -P: a `random.py` in the folder where the user stands must not become part of the program.
        command = [sys.executable, "-P", "-m", "medseg_cli", *self.words]
        self._child = subprocess.Popen(command, cwd=self.folder, preexec_fn=_deaf)
        code = self._child.wait()
        if code not in (0, SOME_FAILED):
            raise MedsegError(f"exit code {code} of: medseg {' '.join(self.words)}")
        return code

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit runs next when the time is over: the same again, after what is being written is written."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._child.kill()
        return DelayedSubmission(ShardTask(self.words, self.folder))


def _deaf() -> None:
    """Slurm's warning before the end goes to every process of a task; the task tells the shard itself."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def submit(words: Sequence[str], out: Path, shards: int, settings: Sequence[str]) -> Submitted:
    """Write the array and hand it in.

    Args:
        words: the command line behind `medseg`, as typed.
        out: folder of the outputs, on a file system that every node sees.
        shards: tasks.
        settings: KEY=VALUE: partition, time, gpus, mem, cpus, account... and `cluster`, "local" without a cluster.

    Raises:
        UsageError: submitit is not installed, or settings that it does not take.
        DeviceError: there is no Slurm here, or it refuses the array.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UsageError("--engine slurm needs submitit, which is not installed", "pip install 'medseg[slurm]'")
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    chosen = slurm_settings.parse(settings)
    cluster = chosen.pop("cluster", "slurm")
    folder = workspace.hidden(out) / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=REQUEUES)
    except ValueError as error:
        raise UsageError(f"--slurm cluster={cluster}: {error}", f"slurm, {' or '.join(LOCAL)}") from error
    except RuntimeError as error:
        hint = "submit from a login node of the cluster; --slurm cluster=local tries it out on this machine"
        raise DeviceError(f"there is no Slurm here: {error}", hint) from error
    try:
        executor.update_parameters(**slurm_settings.parameters(chosen))
    except (NameError, ValueError, AssertionError, TypeError) as error:
        raise UsageError(
            f"--slurm: {' '.join(str(error).split())}", "docs/batch-cluster.md lists what it takes"
        ) from error
    folder_now = os.getcwd()
    tasks = [ShardTask(shard_words(words, number, shards), folder_now) for number in range(1, shards + 1)]
    try:
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise DeviceError(f"Slurm refuses the array: {_last_line(error)}", f"the script is in {folder}") from error
    codes = tuple(_code(job) for job in jobs) if cluster in LOCAL else ()
    return Submitted(tuple(job.job_id for job in jobs), folder, codes)


def _code(job: Any) -> int:
    """Exit code of a task of this machine, waited for; 1 for one that died."""
    error = job.exception()
    return 1 if error is not None else int(job.result())


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def shard_words(words: Sequence[str], number: int, count: int) -> tuple[str, ...]:
    """The command line of one task: without the options that submit it, with its shard.

    Raises:
        UsageError: the command has a shard already.
    """
    kept: list[str] = []
    waiting = False
    for word in words:
        if waiting:
            waiting = False
            continue
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        if name == "--shard":
            raise UsageError("--shard does not go with --engine slurm, which makes the shards", "say --shards N alone")
        if name in OWN_OPTIONS:
            waiting = not equals and name not in FLAGS
            continue
        kept.append(word)
    return (*kept, "--shard", f"{number}/{count}")
