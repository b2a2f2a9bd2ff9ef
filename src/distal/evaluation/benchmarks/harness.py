"""lm-evaluation-harness, kept from changing the process that it runs in."""

from __future__ import annotations

import io
import logging
import os
import random
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from distal.errors import ConfigError

__all__ = ["HARNESS", "contained", "harness_version"]

HARNESS = "lm_eval"


def harness_version() -> str:
    """Version of lm-evaluation-harness.

    Raises:
        ConfigError: it is not installed, or too old.
    """
    from importlib import metadata

    try:
        with contained():
            import lm_eval

            _ = lm_eval.evaluate
            from lm_eval.tasks import TaskManager

            _ = TaskManager.load
        return metadata.version(HARNESS)
    except (ImportError, AttributeError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == HARNESS
        why = "is not installed" if missing else f"cannot be used ({error})"
        raise ConfigError(
            f"benchmarks are run by lm-evaluation-harness, which {why}; install it with: "
            "pip install 'lm-eval>=0.4.13'"
        ) from error


@contextmanager
def contained(*, silent: bool = False) -> Generator[None]:
    """Runs code of the harness, and puts back what it changes: environment variables, log levels, random states.

    The harness prints to standard output, which belongs to the result of a command; it goes nowhere.

    Args:
        silent: whether standard error goes nowhere as well, for the harness's progress bars.
    """
    import numpy as np
    import torch

    environment = dict(os.environ)
    logger = logging.getLogger(HARNESS)
    level = logger.level
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the harness seeds the global generator
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(redirect_stdout(io.StringIO()))
        if silent:
            stack.enter_context(redirect_stderr(io.StringIO()))
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
