"""Groups of options that several verbs share: a dataclass is one parameter of a verb, its fields are the options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

__all__ = ["grouped"]


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Lets typer see the fields of every dataclass among a verb's parameters as options of their own.

    A field is written like a parameter, `Annotated[type, typer.Option(...)] = default`, and its option stands
    where the dataclass stands. The verb is called with the dataclass made of what was given.

    Raises:
        ValueError: two options of one verb have the same name.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     width: int = 1
        ...     height: int = 1
        >>> def draw(shape: str, size: Size) -> None:
        ...     print(shape, size)
        >>> list(inspect.signature(grouped(draw)).parameters)
        ['shape', 'width', 'height']
        >>> grouped(draw)(shape="box", width=2, height=1)
        box Size(width=2, height=1)
    """
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(verb).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            groups[parameter.name] = kind
            options += _options(kind)
        else:
            # By name alone, so that a group without defaults may follow an option that has one.
            options.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(verb)
    def call(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        verb(**given)

    call.__signature__ = inspect.Signature(options)  # pyright: ignore[reportAttributeAccessIssue]
    call.__annotations__ = {option.name: option.annotation for option in options}
    return call


def _options(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters."""
    hints = get_type_hints(group, include_extras=True)

    def default(field: Field[Any]) -> Any:
        assert field.default_factory is MISSING, f"{field.name}: an option's default is a value"
        return inspect.Parameter.empty if field.default is MISSING else field.default

    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default(field),
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
