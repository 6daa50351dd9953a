"""What a training that ends finds out about its bundle, and lets it know."""

from unetseg.data.crops.reader import PairReader
from unetseg.evaluation.calibration import check_calibration
from unetseg.evaluation.postprocessing import check_postprocessing
from unetseg.evaluation.precision import check_precision, pixels_to_compare, spread_windows
from unetseg.progress import Progress
from unetseg.text import plural
from unetseg.training.run import TrainingRun
from unetseg.training.run_log import RunLog


def store_verdicts(
    run: TrainingRun, reader: PairReader, trained: int, log: RunLog, progress: Progress
) -> None:
    """Store in what arithmetic masks may be computed, how sure they are, and what is done to them.

    Args:
        run: The training.
        reader: Its validation pairs, which are looked at.
        trained: Pixels that it has learned from, each as often as it was seen.
        log: Gets what was found.
        progress: Hears it.
    """
    facts = [fact.image for fact in run.known.facts_of("val")]
    pixels = pixels_to_compare(trained)
    windows = list(spread_windows(reader, facts, pixels))
    samples = f"{plural(len(windows), 'window')} of validation images"
    if verdict := check_precision(run.folder, run.machine, windows):
        log.event("precision", **verdict.model_dump(), holds=verdict.holds)
        progress.say(f"{samples}: {verdict.figures}")
    if calibration := check_calibration(run.folder, run.machine, windows):
        log.event("calibration", **calibration.model_dump())
        progress.say(f"{samples}: {calibration.figures}")
    if told := check_postprocessing(run.folder, run.machine, reader, facts, pixels // 2):
        log.event("postprocess", told=told)
        progress.say(told)
