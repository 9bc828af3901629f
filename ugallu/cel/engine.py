"""Expressions of the Common Expression Language over JSON, with the string and optional extensions that Kubernetes has.

Importing the engine costs 14 MiB and 45 ms, so whoever imports this module does it where the first expression is
needed.
"""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec
from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_optional, ext_strings

from ugallu.errors import PermanentError

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

_REFUSALS = (RuntimeError, TypeError, ValueError, OverflowError)
"""What the library raises: it has no exceptions of its own."""


class Fault(msgspec.Struct, frozen=True):
    """Why an expression has no value: an absent key, no such overload, or the budget of 10,000 iterations spent."""

    reason: str


class Environment:
    """The names that expressions may use; every name holds any JSON value."""

    def __init__(self, *names: str) -> None:
        self._env = cel.NewEnv(
            variables=dict.fromkeys(names, cel.Type.DYN),
            extensions=[ext_strings.ExtStrings(), ext_optional.ExtOptional(), ext_bindings.ExtBindings()],
        )

    def compile(self, expression: str) -> "Program":
        """Return the program of an expression, or raise `PermanentError` with the place it stops making sense."""
        try:
            return Program(self._env.compile(expression))
        except _REFUSALS as error:
            raise PermanentError(
                f"no CEL expression: {_line(error)}", where=expression[:80], fix="see the place after the colons"
            ) from error

    def bind(self, values: Mapping[str, Json]) -> "Scope | Fault":
        """Return the values in the engine's own form, to evaluate several programs against them."""
        try:
            return Scope(self._env.Activation(values))
        except _REFUSALS as error:
            return Fault(_line(error))


class Scope:
    """Values bound to names; each is converted once, when the first program asks for it."""

    def __init__(self, activation: cel.Activation) -> None:
        self.activation = activation


class Program:
    """A compiled expression; belongs to whoever compiled it."""

    def __init__(self, expression: cel.Expression) -> None:
        self._expression = expression

    def evaluate(self, values: Mapping[str, Json] | Scope) -> "Json | Fault":
        """Return the value, or why there is none."""
        try:
            if isinstance(values, Scope):
                found = self._expression.eval(values.activation)
            else:
                found = self._expression.eval(data=values)
            value: Json = found.plain_value()
        except _REFUSALS as error:
            return Fault(_line(error))
        return Fault(str(value)) if found.type() == cel.Type.ERROR else value


def _line(error: BaseException) -> str:
    """Return what the library says, without the expression that it prints below it."""
    return " ".join(str(error).split(" | ", 1)[0].split())[:300]
