"""Several cases in one call of their model, so that their slices or crops share its batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from medseg_cli.batch.models import Models, clear_cuda, spoilt
from medseg_cli.batch.work import Loaded, Predicted, predict
from medseg_cli.logs import case_of_log
from medseg_cli.stages import Stages

logger = logging.getLogger("medseg.batch")


def predict_together(group: Sequence[Loaded], models: Models) -> list[Predicted | Exception]:
    """What `predict` makes of cases of one preset, or why it cannot; they share batches where the model can.

    Time and memory of what is done together count for each case with its share of the time.
    """
    try:
        pipeline = models.pipeline(group[0].case.preset)
    except Exception as error:
        return [error] * len(group)
    if len(group) == 1 or not hasattr(pipeline, "segment_together"):
        return [_tried(loaded, models) for loaded in group]
    shared = Stages()
    try:
        with shared("segment"):
            found = pipeline.segment_together([(loaded.scan, loaded.run.prompt) for loaded in group], shared)
    except Exception as error:
        if spoilt(error):
            return [error] * len(group)
        logger.warning("%d cases cannot be segmented together, each is by itself: %s", len(group), error)
        clear_cuda()
        return [_tried(loaded, models) for loaded in group]
    results: list[Predicted | Exception] = []
    for loaded, segmentation in zip(group, found, strict=True):
        if isinstance(segmentation, Exception):
            results.append(segmentation)
            continue
        loaded.run.stages.finished.extend(replace(each, seconds=each.seconds / len(group)) for each in shared.finished)
        note = f"segmented together with {len(group) - 1} other cases, in the same batches of the network"
        run = replace(loaded.run, runtime=pipeline.runtime, notes=(*loaded.run.notes, note))
        results.append(Predicted(loaded, run, segmentation))
    return results


def _tried(loaded: Loaded, models: Models) -> Predicted | Exception:
    with case_of_log(loaded.case.id):
        try:
            return predict(loaded, models)
        except Exception as error:
            return error
