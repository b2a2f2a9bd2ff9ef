"""Figures of evaluations, handed to the loggers that the Trainer reports to: those that take pictures.

Numbers need nothing of this: the Trainer hands its metrics to every logger under the same names. No logger is imported
here; each is asked through the callback that transformers has made for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distal.evaluation import DominanceCertificate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FigureLogger"]

logger = logging.getLogger(__name__)

_DPI = 100
"""Enough for a picture in a dashboard."""


class _Reporting(Protocol):
    """A trainer with its callbacks."""

    @property
    def callback_handler(self) -> Any:
        """Holds the list `callbacks`."""
        ...


class FigureLogger:
    """Draws the reward quantiles of an evaluation for every logger that takes pictures.

    TensorBoard, Weights & Biases and trackio get a picture named `eval/reward_quantiles` (`eval/NAME/...` with several
    sets), MLflow the file `reward_quantiles/eval-step-00000010.png`. A logger that fails is named once and left alone.

    Args:
        trainer: whose loggers are asked.
    """

    def __init__(self, trainer: _Reporting) -> None:
        self._trainer = trainer
        self._failed: set[str] = set()

    def __call__(self, name: str, step: int, certificate: DominanceCertificate) -> None:
        """Show one certificate.

        Args:
            name: prefix of the evaluation's metrics: `eval`, or `eval_NAME`.
            step: optimizer steps taken.
            certificate: of the evaluation.
        """
        shown = [
            (kind, how, callback)
            for callback in self._trainer.callback_handler.callbacks
            for kind, how in _LOGGERS.items()
            if type(callback).__name__ == kind and kind not in self._failed
        ]
        if not shown:
            return
        from distal.report.figures import reward_quantiles_figure

        figure = reward_quantiles_figure({f"step {step}": certificate})
        figure.set_dpi(_DPI)
        for kind, how, callback in shown:
            try:
                how(callback, name, step, figure)
            except Exception as error:  # a picture is no reason to stop a run
                self._failed.add(kind)
                logger.warning("%s did not take a figure, and gets no more of them: %s", kind, error)


def _tag(name: str) -> str:
    """`eval_NAME` as the loggers write it."""
    return f"{name.replace('eval_', 'eval/', 1)}/reward_quantiles"


def _tensorboard(callback: Any, name: str, step: int, figure: Figure) -> None:
    if callback.tb_writer is not None:
        callback.tb_writer.add_image(_tag(name), pixels(figure), step, dataformats="HWC")
        callback.tb_writer.flush()


def _wandb(callback: Any, name: str, step: int, figure: Figure) -> None:
    if callback._wandb is not None:
        callback._wandb.log({_tag(name): callback._wandb.Image(pixels(figure)), "train/global_step": step})


def _trackio(callback: Any, name: str, step: int, figure: Figure) -> None:
    if callback._trackio is not None:
        callback._trackio.log(
            {_tag(name): callback._trackio.Image(pixels(figure)), "train/global_step": step}
        )


def _mlflow(callback: Any, name: str, step: int, figure: Figure) -> None:
    if callback._ml_flow is not None:
        callback._ml_flow.log_figure(figure, f"reward_quantiles/{name}-step-{step:08d}.png")


_LOGGERS: dict[str, Callable[[Any, str, int, Figure], None]] = {
    "TensorBoardCallback": _tensorboard,
    "WandbCallback": _wandb,
    "TrackioCallback": _trackio,
    "MLflowCallback": _mlflow,
}
"""How the callback of each logger takes a figure."""


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as it is drawn, shape (height, width, 3)."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
