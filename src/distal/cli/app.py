"""The application: its verbs, and what all of them share."""

from __future__ import annotations

import inspect
import os
from typing import Annotated

import typer

import distal
from distal.cli import align, cache, data, demo, env, evaluate, report, score
from distal.cli.reporting import ReportingGroup

__all__ = ["app", "main"]

app = typer.Typer(
    name="distal",
    cls=ReportingGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Align language models with preferences as distributions, by optimal transport.",
    epilog="`distal VERB --help` explains a verb; `distal demo` shows everything at work in a few minutes.",
)
align.register(app)
data.register(app)
score.register(app)
evaluate.register(app)
report.register(app)
cache.register(app)
demo.register(app)
env.register(app)


def _flow(verbs: typer.Typer) -> None:
    """Lets the paragraphs of every docstring flow to the width of the terminal; typer keeps the ends of their lines."""
    for verb in verbs.registered_commands:
        paragraphs = (verb.help or inspect.getdoc(verb.callback) or "").split("\n\n")
        verb.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
    for group in verbs.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)


_flow(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"distal {distal.__version__}")
        raise typer.Exit


@app.callback()
def shared_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show where an error was raised (give it before the verb).", envvar="DISTAL_DEBUG"
        ),
    ] = False,
) -> None:
    """Options that stand before the verb; `ReportingGroup` reads them."""


def main() -> None:
    """Runs the command line; the console script `distal`."""
    if os.environ.get("RANK", "0") != "0":
        # Of several processes the first one shows what PyTorch warns of, before Python has a say in it.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    app()
