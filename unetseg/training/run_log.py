"""What a run tells while it learns: metrics.csv, log.jsonl and TensorBoard."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from unetseg.progress import Progress
from unetseg.storage import json_value, write_csv, writing

LOG = "log.jsonl"


class RunLog:
    """The files of a run; of several processes the first writes them."""

    def __init__(self, folder: Path, progress: Progress, *, writes: bool) -> None:
        self.folder, self._progress, self._writes = folder, progress, writes
        self._tensorboard: Any = None
        self._is_refused = False

    def rewrite(self, rows: list[dict[str, float]]) -> None:
        """Write all of metrics.csv, so that a resumed run has neither gaps nor duplicates."""
        if rows and self._writes:
            cells = [
                {k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in row.items()}
                for row in rows
            ]
            write_csv(self.folder / "metrics.csv", cells)

    def scalars(self, row: dict[str, float]) -> None:
        """Log a row of metrics, and show it in TensorBoard."""
        self.event("validation", **row)
        self._attempt(partial(self._show, row))

    def _show(self, row: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # not needed before a validation

        if self._tensorboard is None:
            self._tensorboard = SummaryWriter(str(self.folder / "tensorboard"))
        for key, value in row.items():
            self._tensorboard.add_scalar(key.replace("val_", "val/"), value, int(row["step"]))
        self._tensorboard.flush()

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do what the training can do without; the first failure is told and is the last."""
        if self._is_refused:
            return
        try:
            work()
        except (ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            self._is_refused = True
            self._progress.say(f"warning: no TensorBoard log from here on: {error}")

    def event(self, kind: str, **facts: object) -> None:
        """Append one line to log.jsonl; what is not a number becomes null."""
        if not self._writes:
            return
        path = self.folder / LOG
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(json_value({"event": kind, **facts})) + "\n")

    def close(self) -> None:
        """Close what is open."""
        if self._tensorboard is not None:
            self._attempt(self._tensorboard.close)
