"""`distal align`: align a model with preferences."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from distal.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from distal.workflow.schema import Option

__all__ = ["register"]

_INTRODUCTION = (
    "Align a causal language model with preferences, and state whether held-out rewards of preferred "
    "responses now dominate those of the others.",
    "Options come from --config FILE.yaml (one `name: value` per line) and from the command line, which "
    "wins. Names may be written learning_rate or learning-rate; switches as --lora and --no-lora.",
)
_AFTERWORD = (
    "Every field of transformers.TrainingArguments is an option as well: --max-steps, --lr-scheduler-type, "
    "--warmup-steps, --weight-decay, --optim, --bf16, --seed, --save-steps, --save-total-limit, "
    "--eval-strategy, --gradient-checkpointing, --report-to, --run-name, ...; those that would change the "
    "objective are refused."
)
_EXAMPLE = (
    "distal align --model MODEL --data preferences.jsonl --output-dir runs/first --lora --learning-rate 1e-4"
)


class AlignCommand(TyperCommand):
    """Its options are the fields of four dataclasses, which its help lists."""

    def format_help(self, ctx: Any, formatter: object) -> None:
        """Prints the grouped list of options."""
        print_help(ctx.command_path)


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    app.command(
        "align",
        cls=AlignCommand,
        short_help="Align a model with preferences.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(run)


def run(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option("--config")] = None,
    resume: Annotated[bool, typer.Option("--resume")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Align a model with preferences."""
    from rich.console import Console

    from distal.workflow.resolve import resolve_options

    options = resolve_options(
        config, ctx.args, resume=resume, overwrite=overwrite, command=shlex.join(["distal", *sys.argv[1:]])
    )
    if dry_run:
        from distal.workflow.dry_run import dry_run as measure

        measure(options, console=Console(), as_json=as_json)
        return
    if as_json:
        raise ConfigError("--json says how --dry-run reports; without --dry-run it has no effect")
    from distal.workflow.alignment import align  # the trainer takes seconds to import: after the options

    align(options, console=Console())
    _leave_group()


def _leave_group() -> None:
    """Takes leave of the other processes; one that just ends makes the others' libraries complain."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def print_help(command_path: str) -> None:
    """Prints what `distal align` does and every option of Distal's own, with its default."""
    from rich.console import Console

    from distal.workflow.schema import align_schema

    console = Console(highlight=False)
    console.print(
        f"\n[bold]Usage:[/bold] {command_path} [--config FILE.yaml] [--option value ...]\n", soft_wrap=True
    )
    for paragraph in _INTRODUCTION:
        console.print(paragraph + "\n", markup=False)
    console.print("[bold]Run[/bold]")
    console.print(
        _table(
            [
                ("--config", "file", "", "YAML file with options"),
                ("--output-dir", "folder", "required", "where the result, checkpoints and logs go"),
                ("--resume", "switch", "", "go on from the last complete checkpoint in the output folder"),
                (
                    "--overwrite",
                    "switch",
                    "",
                    "replace the run in the output folder, once the new one can start",
                ),
                (
                    "--dry-run",
                    "switch",
                    "",
                    "measure memory and time on a few micro-batches, and write nothing",
                ),
                ("--json", "switch", "", "with --dry-run: print JSON"),
                ("--help", "switch", "", "print this"),
            ]
        )
    )
    schema = align_schema()
    for title in schema.sections:
        console.print(f"[bold]{title}[/bold]")
        console.print(_table([_row(option) for option in schema.own(title)]))
    console.print(_AFTERWORD + "\n", markup=False)
    console.print("[bold]Example[/bold]")
    console.print("  " + _EXAMPLE + "\n", markup=False, soft_wrap=True)


def _row(option: Option) -> tuple[str, str, str, str]:
    """One line of the table: name, type, default, help."""
    from distal.workflow.schema import describe_type

    default = "required" if option.required else "" if option.default is None else str(option.default)
    if isinstance(option.default, bool):
        default = "yes" if option.default else "no"
    kind = "switch" if option.is_switch else describe_type(option.annotation).removesuffix(" or null")
    return f"--{option.name.replace('_', '-')}", kind, default, option.help


def _table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    """A borderless table of options."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=True)
    # On a narrow terminal everything may wrap but the names, which are there to be copied.
    table.add_column(style="cyan", no_wrap=True, min_width=max(len(row[0]) for row in rows))
    for style, ratio in (("dim", None), ("yellow", None), ("", 1)):
        table.add_column(style=style, ratio=ratio, overflow="fold")
    for name, kind, default, text in rows:
        table.add_row(Text(name, no_wrap=True), Text(kind), Text(default), Text(text))
    return table
