"""What of a batch is to be run here: its shard, less what is finished, what cannot work and what is over the limit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medseg_cli.batch.budget import Needs, check
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.models import Models
from medseg_cli.batch.record import Record
from medseg_cli.batch.resume import decide
from medseg_cli.errors import InputError, MedsegError, UsageError

PROMPTS = "prompts of a batch are columns of its manifest: medseg batch CASES.csv ... (docs/batch-input.md)"


@dataclass(frozen=True)
class Plan:
    """The cases of this run, sorted.

    Args:
        cases: all of the shard.
        run: those to be run, in order.
        kept: records of those that are finished, or have failed before and are not tried again.
        wrong: cases that are known to fail, and why.
        again: why cases with a record are run again → how many.
        over: how many are left out by --limit.
    """

    cases: tuple[BatchCase, ...]
    run: tuple[BatchCase, ...]
    kept: tuple[Record, ...]
    wrong: tuple[tuple[BatchCase, MedsegError], ...]
    again: dict[str, int]
    over: int


def apart(cases: Sequence[BatchCase], naming: str) -> tuple[BatchCase, ...]:
    """The cases; those whose BIDS derivatives would be the same files have that as their problem, all of them.

    Ids are unique, but of a scan that is not named as in BIDS only letters and digits are kept: "a/b" and "aB" are one
    subject. Call it before `shard`, so that shards agree.

    Args:
        cases: of the whole run.
        naming: as in `Settings`.
    """
    from medseg_cli.writers import bids

    if naming != "bids":
        return tuple(cases)
    named: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        named[str(bids.derive(case.id).path).casefold()].append(case.id)
    found = []
    for case in cases:
        path = bids.derive(case.id).path
        twins = named[str(path).casefold()]
        if len(twins) > 1 and case.problem is None:
            told = f"{len(twins)} cases are {path} in BIDS: {', '.join(twins[:3])}"
            case = replace(case, problem=InputError(told, "name them in a manifest, or leave --naming bids out"))
        found.append(case)
    return tuple(found)


def shard(cases: Sequence[BatchCase], text: str) -> tuple[BatchCase, ...]:
    """Every n-th case from the i-th on, for "i/n" with i from 1 to n; all of them for "".

    Raises:
        UsageError: it says something else.
    """
    if not text:
        return tuple(cases)
    first, slash, count = text.partition("/")
    if not slash or not first.isdecimal() or not count.isdecimal() or not 1 <= int(first) <= int(count):
        raise UsageError(
            f"--shard '{text}' is not i/n with i from 1 to n",
            "for example --shard 1/4; add 1 to a count from 0",
        )
    return tuple(cases[int(first) - 1 :: int(count)])


def sort(
    cases: Sequence[BatchCase],
    models: Models,
    needs: Needs,
    memory: int,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
    on_case: Callable[[], None] = lambda: None,
) -> Plan:
    """Find out what there is to do before any scan is read.

    Args:
        cases: of this shard.
        models: of the run; weights are looked up, not loaded.
        needs: predicted memory of a case.
        memory: bytes that cases may need.
        limit: most cases to run.
        retry_failed: whether failed cases are run again though nothing has changed.
        on_case: called when another case has been looked at.

    Raises:
        MedsegError: no case can be run, all for the same reason.
    """
    errors = problems(cases, models)
    run: list[BatchCase] = []
    kept: list[Record] = []
    wrong: list[tuple[BatchCase, MedsegError]] = []
    again: dict[str, int] = {}

    def fingerprint(case: BatchCase) -> str:
        try:
            return models.preset(case.preset)[1]
        except MedsegError:
            return ""

    for decided in decide(cases, models.settings, fingerprint, retry_failed=retry_failed):
        on_case()
        if decided.record is not None:
            kept.append(decided.record)
            continue
        if decided.why:
            again[decided.why] = again.get(decided.why, 0) + 1
        error = errors.get(decided.case.id) or check(decided.case, needs, memory)
        if error is not None:
            wrong.append((decided.case, error))
        else:
            run.append(decided.case)
    chosen = run if limit is None else run[:limit]
    return Plan(tuple(cases), tuple(chosen), tuple(kept), tuple(wrong), again, len(run) - len(chosen))


def problems(cases: Sequence[BatchCase], models: Models) -> dict[str, MedsegError]:
    """What can be said against cases without their scans, by id.

    Raises:
        MedsegError: no case can be run, all for the same reason.
    """
    found = [(case, problem(case, models)) for case in cases]
    # What is wrong with every file by itself is so many failed rows; what is wrong with the run is no batch at all.
    of_run = [error for case, error in found if error is not None and case.problem is None]
    if of_run and len(of_run) == len(found) and len({(each.exit_code, each.message) for each in of_run}) == 1:
        raise of_run[0]
    return {case.id: error for case, error in found if error is not None}


def problem(case: BatchCase, models: Models) -> MedsegError | None:
    """What can be said against a case without its scan: its listing, its preset, the kinds of its prompts."""
    from medseg_cli.asked import check_kinds

    if case.problem is not None:
        return case.problem
    try:
        preset, _ = models.preset(case.preset)
        prompt = case.asked.prompt()
    except MedsegError as error:
        return error
    try:
        check_kinds(preset, prompt, case.asked)
    except UsageError as error:
        if "text" in preset.prompts.kinds and any(target.text for target in prompt.targets):
            # What can be said instead of these words is the same in a batch.
            return error
        words = (
            'add --text "WHAT", the same for all cases; '
            if "text" in preset.prompts.kinds and not prompt.targets
            else ""
        )
        return UsageError(error.message, words + PROMPTS)
    except MedsegError as error:
        # A preset that cannot be used is no reason to leave the cases of others.
        return error
    return None
