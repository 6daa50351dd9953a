"""unetseg demo."""

import time
from pathlib import Path

from unetseg.cli.console import observed, say
from unetseg.config import EvalConfig, PredictConfig, TrainConfig, TrainingConfig
from unetseg.text import plural


def demo(
    *,
    data: Path = Path("data/sample"),
    out: Path = Path("checkpoints"),
    budget: str = "90s",
) -> None:
    """Draw a sample folder, train on it, evaluate and predict: all of unetseg in two minutes.

    Example:
    unetseg demo --budget 60s

    Parameters
    ----------
    data
        Folder the sample is drawn into.
    out
        Folder of the run folders.
    budget
        Time for the training: 90s, 2m.
    """
    from unetseg.data.sample import draw_sample
    from unetseg.evaluation.evaluate import evaluate
    from unetseg.prediction.predict import predict_folder
    from unetseg.report.page import write_report
    from unetseg.training.fit import train

    training = TrainingConfig.model_validate({"budget": budget})
    name = f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    with observed() as progress:
        draw_sample(data, progress=progress)
        config = TrainConfig(training=training)
        run = train(data, config, out=out, name=name, progress=progress)
        result = evaluate(run, data, EvalConfig(), progress=progress)
        write_report(run, progress, result.folder)
        predict_folder(
            run,
            [data / "images"],
            run / "predicted",
            PredictConfig(overlay=True),
            progress=progress,
        )
    low, high = result.scores.foreground_dice_interval
    say(
        f"validation Dice {result.scores.foreground_dice:.4f} (95% interval {low:.4f}–{high:.4f}) "
        f"on {plural(result.scores.images, 'image')} the network was not trained on"
    )
    say(f"  all of it on one page  {run / 'report.html'}")
    say(f"  what it learned from   {data}")
    say(f"  metrics and previews   {run / 'metrics.csv'}, {run / 'previews'}")
    say(f"  hits and misses        {result.folder / 'overlays'}")
    say(f"  masks and overlays     {run / 'predicted'}")
    say("next: unetseg train YOUR_FOLDER --budget 10m")
