"""Paths into JSON: the native JSONPath subset with its aliases, and Sigma's dotted names.

A native path names values exactly; a dotted name crosses arrays by itself. Every step makes a fresh list, so an
element never disappears behind another one.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown

MAX_PATH = 256
MAX_VALUES = 100_000
"""Values that one path may name in one body; what lies beyond is not looked at. Far above any real object."""


class Each(msgspec.Struct, frozen=True):
    """`[*]` and `.*`: all items of an array, all values of a map."""

    def __str__(self) -> str:
        return "[*]"


EACH = Each()
Step = str | int | Each


class Path(msgspec.Struct, frozen=True):
    """A parsed path; `root` is `$`, the body, or `$pod`, `$ctr` or `$csr`.

    `$pod` is the Pod spec of a workload, `$ctr` all its containers, `$csr` what a CertificateSigningRequest asks for.
    """

    root: str
    steps: tuple[Step, ...]
    text: str


_step = re.compile(r"\.\*|\.(?P<name>[^.\[\]]+)|\[\*\]|\[(?P<index>\d{1,9})\]|\['(?P<key>[^'\]]+)'\]")


def json_path(text: str, *, where: str, aliases: bool = True) -> Path:
    """Parse a native path. Raises `RuleError` with reason JSONPath and the place where it stops making sense."""

    def refuse(what: str) -> RuleError:
        return RuleError(
            Reason.JSON_PATH,
            f"{shown(text)}: {what}",
            where=where,
            fix="`$`, then any of .name .* [0] [*] ['key']; no `..`, slices, filters or negative indexes",
        )

    if len(text) > MAX_PATH:
        raise refuse(f"longer than {MAX_PATH} characters")
    root = next((root for root in ("$pod", "$ctr", "$csr", "$") if text.startswith(root)), "")
    if not root:
        raise refuse("does not begin with $")
    at = len(root)
    if root != "$" and not aliases:
        raise refuse(f"{root} has no meaning inside an element")
    if root == "$ctr" and not text.startswith("[", at):
        raise refuse("$ctr is a list: write $ctr[*]")
    steps: list[Step] = []
    while at < len(text):
        found = _step.match(text, at)
        if found is None:
            raise refuse(f"not understood from character {at + 1}, {shown(text[at : at + 20])}")
        name, index, key = found.group("name", "index", "key")
        steps.append(EACH if name is index is key is None else int(index) if index is not None else name or key)
        at = found.end()
    return Path(root, tuple(steps), text)


Walk = Callable[[Any], list[Any]]


def walk(steps: tuple[Step, ...]) -> Walk:
    """Return a function from a body to the values that the steps name, without nulls."""
    if all(isinstance(step, str) for step in steps):
        return _straight(_names(steps))
    if sum(not isinstance(step, str) for step in steps) == 1 and EACH in steps:
        middle = steps.index(EACH)
        return _one_each(_names(steps[:middle]), _names(steps[middle + 1 :]))

    def values(body: Any) -> list[Any]:  # noqa: ANN401 - any JSON
        here = [body]
        for step in steps:
            there: list[Any] = []
            if isinstance(step, str):
                there = [item for value in here if isinstance(value, dict) and (item := value.get(step)) is not None]
            elif isinstance(step, int):
                there = [value[step] for value in here if isinstance(value, list) and step < len(value)]
            else:
                for value in here:
                    if isinstance(value, list):
                        there.extend(value)
                    elif isinstance(value, dict):
                        there.extend(value.values())
                del there[MAX_VALUES:]
            if not there:
                return there
            here = there
        return [value for value in here if value is not None]

    return values


def _names(steps: tuple[Step, ...]) -> tuple[str, ...]:
    return tuple(step for step in steps if isinstance(step, str))


def _one_each(before: tuple[str, ...], after: tuple[str, ...]) -> Walk:
    """The shape of nearly every path into a list: spelled out, it takes a third of the time."""

    def values(body: Any) -> list[Any]:  # noqa: ANN401 - any JSON
        for name in before:
            if not isinstance(body, dict):
                return []
            body = body.get(name)
        if isinstance(body, dict):
            body = list(body.values())
        elif not isinstance(body, list):
            return []
        found: list[Any] = []
        for item in body[:MAX_VALUES]:
            value = item
            for name in after:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                found.append(value)
        return found

    return values


def _straight(names: tuple[str, ...]) -> Walk:
    def value(body: Any) -> list[Any]:  # noqa: ANN401 - any JSON
        for name in names:
            if not isinstance(body, dict):
                return []
            body = body.get(name)
        return [] if body is None else [body]

    return value


_dots = re.compile(r"(?:\.?[^.\[\]]+|\.?\['[^'\]]+'\]|\[\*?\])*")


def dotted(name: str, *, where: str = "") -> tuple[str, ...]:
    """Split a Sigma field name at its dots; `['a.b']` is one segment, and `[*]` says what is so anyway.

    Raises `RuleError` for what names one element of an array: a dotted name crosses arrays whole.
    """
    if _dots.fullmatch(name) is None:
        raise RuleError(
            Reason.JSON_PATH,
            f"the field {shown(name)}",
            where=where,
            fix="names with dots between them; an array means any of its elements, and none is named by its place",
        )
    plain = name.replace("[*]", "").replace("[]", "")
    return tuple(quoted or bare for quoted, bare in re.findall(r"\['([^'\]]+)'\]|([^.\[\]]+)", plain))


def crossing(segments: tuple[str, ...], *, leaves: bool = True) -> Walk:
    """Return a function from a body to the values of a dotted name; arrays on the way mean any element.

    Where a key holds dots itself the longest one that exists is taken. With `leaves` an array at the end stands for
    its elements; without, for itself. Nulls are left out.
    """
    count = len(segments)
    joined = [[(".".join(segments[i:j]), j) for j in range(count, i, -1)] for i in range(count)]

    def values(body: Any) -> list[Any]:  # noqa: ANN401 - any JSON
        found: list[Any] = []
        pending: list[tuple[int, Any]] = [(0, body)]
        budget = MAX_VALUES
        while pending and budget:
            budget -= 1
            at, value = pending.pop()
            if isinstance(value, list) and (leaves or at < count):
                pending.extend((at, item) for item in reversed(value))
            elif at == count:
                if value is not None:
                    found.append(value)
            elif isinstance(value, dict):
                for key, after in joined[at]:
                    if key in value:
                        pending.append((after, value[key]))
                        break
        return found

    return values
