"""Pictures of the worst cases, kept while all cases pass by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from medseg_cli.errors import InputError
from medseg_cli.evaluation.results import CaseResult, ObjectScore
from medseg_cli.evaluation.scoring import Maps, Scored
from medseg_cli.writers import comparison


@dataclass(frozen=True)
class Picture:
    """A picture of one object.

    Args:
        case: its id.
        found: which object, and its score.
        png: the picture.
        shows: what, in words.
        unit: of distances.
    """

    case: str
    found: ObjectScore
    png: bytes
    shows: str
    unit: str


@dataclass
class Gathered:
    """What has come so far; complete once all cases have."""

    results: list[CaseResult]
    pictures: list[Picture]


def gather(scored: Iterable[Scored], into: Gathered, wanted: int, report: Callable[[CaseResult], None]) -> None:
    """Collect every result, and the pictures of the `wanted` worst cases.

    Ctrl-C leaves in `into` what there is; a case's label maps are let go before the next is asked for.

    Args:
        scored: cases, as they come.
        into: grows while it is looked at.
        wanted: pictures; 0 for none.
        report: called after each case.
    """
    for each in scored:
        if each.maps is not None:
            _keep(each.result, each.maps, into.pictures, wanted)
        into.results.append(each.result)
        report(each.result)


def _keep(result: CaseResult, maps: Maps, pictures: list[Picture], wanted: int) -> None:
    """Draw a case if its worst object is among the worst so far."""
    objects = [found for found in result.objects if found.score.emptiness != "both are empty"]
    if not objects or not wanted:
        return
    worst = min(objects, key=lambda found: found.score.dice)
    if len(pictures) >= wanted and worst.score.dice >= pictures[-1].found.score.dice:
        return
    value = int(worst.key)
    try:
        png, shows = comparison.draw(
            maps.scan, maps.prediction == value, maps.reference == value, has_image=maps.has_image
        )
    except InputError:
        return  # A scan that is a line of voxels has a score and no picture.
    pictures.append(Picture(result.id, worst, png, shows, result.units.length))
    pictures.sort(key=lambda each: each.found.score.dice)
    del pictures[wanted:]
