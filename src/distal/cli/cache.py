"""`distal cache`: what is in the cache, whether it is whole, and what may go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distal.caching import Removal

__all__ = ["register"]

_CacheDir = Annotated[
    Path | None, typer.Option(help="Folder of the cache; if absent DISTAL_CACHE, or the user's cache folder.")
]
_Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout, and nothing else there.")
]


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    verbs = typer.Typer(no_args_is_help=True, help="List, check and clear the cache.")
    verbs.command("ls")(ls)
    verbs.command("verify")(verify)
    verbs.command("prune")(prune)
    app.add_typer(verbs, name="cache")


def ls(cache_dir: _CacheDir = None, as_json: _Json = False) -> None:
    """List the entries of the cache, the last used ones first.

    Nothing but names and manifests is read; `distal cache verify` reads every byte.
    """
    from distal.caching import list_entries
    from distal.workflow.cache import cache_folder, entries_json, entries_table

    folder = cache_folder(cache_dir)
    entries = list_entries(folder)
    if as_json:
        typer.echo(entries_json(folder, entries))
        return
    from rich.console import Console

    if entries:
        Console(soft_wrap=False).print(entries_table(entries))
    from distal.workflow.storage import readable_size

    total = readable_size(sum(entry.size for entry in entries))
    typer.echo(f"{len(entries)} entries, {total} in {folder}")


def verify(cache_dir: _CacheDir = None, as_json: _Json = False) -> None:
    """Read every byte of the cache and compare it with its checksums.

    Exit code 0: all is whole; 7: a file is damaged, and named. Damaged parts are never used: whoever needs them
    computes them again. `distal cache prune --damaged` removes them.
    """
    from distal.errors import CacheError
    from distal.workflow.cache import cache_folder, verification_json, verify_cache

    folder = cache_folder(cache_dir)
    entries, damages = verify_cache(folder, progress=None if as_json else "checking the cache")
    if as_json:
        typer.echo(verification_json(folder, entries, damages))
    else:
        for damage in damages:
            typer.echo(str(damage))
        typer.echo(f"{len(entries)} entries checked in {folder}, {len(damages) or 'no'} damaged files")
    if damages:
        raise typer.Exit(CacheError.exit_code)


def prune(
    older_than: Annotated[
        str | None,
        typer.Option(help="Only what was not used for so long: 30d, 12h, 2w. On its own: every such entry."),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Entries that are not complete.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Damaged files, and what is of no use without them.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All entries.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and touch nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache_dir: _CacheDir = None,
    as_json: _Json = False,
) -> None:
    """Remove entries from the cache.

    Without options only what nothing reads any more goes: entries in an earlier form, and half files of processes
    that were killed. Whatever is removed is computed again when it is needed. Files that are not Distal's, links,
    and entries that another process works on stay.
    """
    import sys

    from distal.caching import Choice, plan_removal, remove
    from distal.errors import ConfigError
    from distal.workflow.cache import cache_folder, duration, removal_json

    folder = cache_folder(cache_dir)
    choice = Choice(
        partial=partial,
        damaged=damaged,
        everything=everything,
        older_than=None if older_than is None else duration(older_than),
    )
    plan = plan_removal(folder, choice)
    anything = bool(plan.entries or plan.files)
    if not as_json:
        _show(plan, "would be removed" if dry_run else "to be removed", folder)
    if anything and not (dry_run or yes):
        if as_json or not sys.stdin.isatty():
            raise ConfigError("removal wants an answer: add --yes, or --dry-run to see what would go.")
        if not typer.confirm(f"Remove this from {folder}?"):
            typer.echo("Nothing was removed.")
            return
    done = plan if dry_run else remove(plan)
    if as_json:
        typer.echo(removal_json(folder, done, dry_run=dry_run))
    elif anything and not dry_run:
        _show(done, "removed", folder)


def _show(removal: Removal, what: str, folder: Path) -> None:
    """What goes, or has gone."""
    from distal.workflow.cache import entries_table
    from distal.workflow.storage import readable_size

    if removal.entries and what != "removed":
        from rich.console import Console

        Console().print(entries_table(removal.entries))
    for damage in removal.files if what != "removed" else ():
        typer.echo(str(damage))
    for entry in removal.in_use:
        typer.echo(f"stays, another process works on it: {entry.path}")
    for path in removal.left:
        typer.echo(f"stays, it is not Distal's: {path}")
    size = readable_size(removal.freed)
    counted = f"{len(removal.entries)} entries and {len(removal.files)} files"
    typer.echo(f"{counted} {what}, {size} in {folder}")
