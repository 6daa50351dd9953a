"""Images that wait for the network: one thread owns it, and alike images share a batch."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from unetseg.errors import UnetsegError
from unetseg.prediction.engine import Engine
from unetseg.prediction.pipeline import Opened, predict_each


@dataclass(eq=False)
class Waiting:
    """An image that waits."""

    image: Opened[Any]
    probabilities: bool
    future: Future[Opened[Any]] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be equal for two to share a batch."""
        return self.image.image.shape, self.image.image.dtype, self.probabilities


class NetworkQueue:
    """Hands images to the network, the one that waits longest first.

    Those of the same height, width and type that wait as well go along, as many as the engine
    takes at once; masks are the same as alone. Who cancels a future before its turn costs nothing.

    Args:
        engine: The network.
        note: Hears how many images went through together.
    """

    def __init__(self, engine: Engine, note: Callable[[int], None]) -> None:
        self._engine, self._note = engine, note
        self._waiting: list[Waiting] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, image: Opened[Any], *, probabilities: bool = False) -> Future[Opened[Any]]:
        """Let an image wait; the future has it with its bands, or the error."""
        waiting = Waiting(image, probabilities)
        with self._changed:
            self._waiting.append(waiting)
            self._changed.notify()
        waiting.future.add_done_callback(lambda _: self._forget([waiting]))  # if it is cancelled
        return waiting.future

    def close(self) -> None:
        """End the thread when the image in work is done; those that still wait are cancelled."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            for one in list(self._waiting):
                one.future.cancel()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._predict(batch)

    def _next(self) -> list[Waiting]:
        """Those that go through the network next; none when it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_closed:
                return []
            first = self._waiting[0]
            most = self._engine.images_at_once(*first.image.size)
            batch = [one for one in self._waiting if one.kind == first.kind][:most]
            self._forget(batch)
        return batch

    def _forget(self, some: list[Waiting]) -> None:
        with self._changed:
            self._waiting = [one for one in self._waiting if one not in some]

    def _predict(self, batch: list[Waiting]) -> None:
        batch = [one for one in batch if one.future.set_running_or_notify_cancel()]
        self._note(len(batch))

        def refuse(one: Waiting, error: UnetsegError) -> None:
            one.future.set_exception(error)

        opened = [replace(one.image, name=one) for one in batch]
        probabilities = any(one.probabilities for one in batch)
        try:
            for image in predict_each(
                self._engine, opened, probabilities=probabilities, refuse=refuse
            ):
                one: Waiting = image.name
                one.future.set_result(replace(image, name=one.image.name))
        except Exception as error:  # noqa: BLE001 (whoever waits is told)
            for one in batch:
                if not one.future.done():
                    one.future.set_exception(error)
