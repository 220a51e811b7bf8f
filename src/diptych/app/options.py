"""Command lines from dataclasses: every option is a field with its docstring, and nothing else is an option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import tyro

T = TypeVar("T")
Id = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]
RunOrModel = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
Picture = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE")]
Pictures = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE...")]
Question = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="QUESTION")]
Several = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]  # `--data A --data B`
_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def parse(options: type[T], args: Sequence[str], command: str, about: str | None = None) -> T:
    """Reads `args` into the dataclass `options`.

    Raises:
        SystemExit: code 0 after `--help`, 2 after a mistake, which is told with the nearest option.
    """
    about = " ".join((about or options.__doc__ or "").split())
    return tyro.cli(options, args=list(args), prog=f"diptych {command}", description=about, config=_STYLE)


def value_of(name: str, args: Sequence[str]) -> str | None:
    """The value of `--name` in `args`, read before the parser is built; None where it is not there."""
    for index, arg in enumerate(args):
        if arg == f"--{name}" and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith(f"--{name}="):
            return arg.partition("=")[2]
    return None


def docstrings(cls: type) -> dict[str, str]:
    """What the source says below each field of a dataclass, those of its bases included."""
    import ast
    import inspect
    import itertools
    import textwrap

    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for name, about in itertools.pairwise(body):
            said = about.value.value if isinstance(about, ast.Expr) and isinstance(about.value, ast.Constant) else None
            if isinstance(name, ast.AnnAssign) and isinstance(name.target, ast.Name) and isinstance(said, str):
                found[name.target.id] = inspect.cleandoc(said).replace("\n", " ")
    return found


def as_json(value: Any) -> str:
    """A dataclass as JSON; paths become text."""
    import dataclasses
    import json

    return json.dumps(dataclasses.asdict(value), ensure_ascii=False, indent=1, default=str)
