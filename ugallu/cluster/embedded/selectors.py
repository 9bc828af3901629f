"""Label and field selectors: text in, a predicate out. Pure and bounded; the grammar of `kubectl`.

Sources of the grammar: `k8s.io/apimachinery/pkg/labels/selector.go` and `.../pkg/fields/selector.go`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from ugallu.cluster.embedded.names import is_label_value, is_qualified
from ugallu.cluster.port import InvalidError

MAX_LENGTH: Final = 16 * 1024
"""Characters of a selector."""
MAX_TERMS: Final = 256
"""Requirements of a selector, and values of one of its sets."""

_TOKEN: Final = re.compile(r"\s*(?:(==|!=|[=!,()<>])|([^\s=!,()<>]+))")

Operator = Literal["in", "notin", "exists", "absent", "gt", "lt"]


class Requirement(msgspec.Struct, frozen=True):
    """One comma-separated part. `notin` is also true when the key is absent, as in Kubernetes."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def holds(self, values: Mapping[str, str]) -> bool:
        """Tell whether it holds for these labels or fields."""
        found = values.get(self.key)
        match self.operator:
            case "in":
                return found is not None and found in self.values
            case "notin":
                return found is None or found not in self.values
            case "exists":
                return found is not None
            case "absent":
                return found is None
        number, bound = _integer(found), _integer(next(iter(self.values)))
        if number is None or bound is None:
            return False
        return number > bound if self.operator == "gt" else number < bound


class Selector(msgspec.Struct, frozen=True):
    """All requirements must hold; without any, everything is selected."""

    requirements: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.requirements)

    def matches(self, values: Mapping[str, str]) -> bool:
        """Tell whether these labels or fields are selected."""
        return all(requirement.holds(values) for requirement in self.requirements)

    def exact(self, key: str) -> str | None:
        """Return the one value that `key` must have, if it must have one."""
        for requirement in self.requirements:
            if requirement.key == key and requirement.operator == "in" and len(requirement.values) == 1:
                return next(iter(requirement.values))
        return None


def parse_labels(text: str) -> Selector:
    """Parse a label selector: `a=b,c!=d,e in (f,g),h notin (i),j,!k,n>3`. Raises `InvalidError`."""
    return _Parser(text).selector()


def parse_fields(text: str, allowed: Sequence[str]) -> Selector:
    """Parse a field selector: `=`, `==` and `!=` on the `allowed` paths. Raises `InvalidError`.

    A backslash escapes comma, equals sign and backslash in a value.
    """
    _bounded(text)
    requirements = []
    for term in _split_unescaped(text):
        if not term.strip():
            continue
        key, operator, value = _field_term(term)
        if key not in allowed:
            raise InvalidError(
                f"field label not supported: {key!r}", where="field selector", fix=f"one of {', '.join(allowed)}"
            )
        requirements.append(Requirement(key, operator, frozenset({value})))
    if len(requirements) > MAX_TERMS:
        raise InvalidError(f"more than {MAX_TERMS} terms", where="field selector")
    return Selector(tuple(requirements))


def _bounded(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise InvalidError(f"longer than {MAX_LENGTH} characters", where="selector")


def _integer(text: str | None) -> int | None:
    # Python's int() takes underscores and non-ASCII digits, Go's ParseInt does not.
    if text is None or re.fullmatch(r"[+-]?[0-9]{1,19}", text) is None:
        return None
    return int(text)


class _Parser:
    """Recursive descent over the tokens of a label selector."""

    def __init__(self, text: str) -> None:
        _bounded(text)
        self._text = text
        self._tokens: list[str] = []
        at = 0
        end = len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            assert found is not None  # one of the two alternatives takes any character that is no space
            self._tokens.append(found[1] or found[2])
            at = found.end()
        self._at = 0

    def selector(self) -> Selector:
        requirements: list[Requirement] = []
        if not self._tokens:
            return Selector()
        while True:
            requirements.append(self._requirement())
            if len(requirements) > MAX_TERMS:
                raise self._error(f"more than {MAX_TERMS} requirements")
            follows = self._next()
            if not follows:
                return Selector(tuple(requirements))
            if follows != ",":
                raise self._error(f"expected ',' before {follows!r}")

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next()
            return Requirement(self._key(), "absent")
        key = self._key()
        operator = self._peek()
        if operator in ("", ","):
            return Requirement(key, "exists")
        self._next()
        match operator:
            case "=" | "==":
                return Requirement(key, "in", frozenset({self._value()}))
            case "!=":
                return Requirement(key, "notin", frozenset({self._value()}))
            case "in" | "notin":
                return Requirement(key, "in" if operator == "in" else "notin", self._set())
            case ">" | "<":
                bound = self._value()
                if _integer(bound) is None:
                    raise self._error(f"{bound!r} is no integer")
                return Requirement(key, "gt" if operator == ">" else "lt", frozenset({bound}))
        raise self._error(f"expected an operator, found {operator!r}")

    def _set(self) -> frozenset[str]:
        if self._next() != "(":
            raise self._error("expected '(' and values")
        values = [self._value()]
        while (follows := self._next()) == ",":
            values.append(self._value())
            if len(values) > MAX_TERMS:
                raise self._error(f"more than {MAX_TERMS} values")
        if follows != ")":
            raise self._error("expected ')'")
        return frozenset(values)

    def _key(self) -> str:
        key = self._next()
        if not is_qualified(key):
            raise self._error(f"{key!r} is no label key")
        return key

    def _value(self) -> str:
        if self._peek() in ("", ",", ")"):
            return ""
        value = self._next()
        if not is_label_value(value):
            raise self._error(f"{value!r} is no label value")
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _error(self, what: str) -> InvalidError:
        shown = self._text if len(self._text) <= 80 else self._text[:77] + "..."
        return InvalidError(what, where=f"label selector {shown!r}", fix="as in kubectl -l: a=b,c!=d,e in (f,g),!h")


def _split_unescaped(text: str) -> list[str]:
    parts: list[str] = []
    part: list[str] = []
    escaped = False
    for char in text:
        if char == "," and not escaped:
            parts.append("".join(part))
            part = []
        else:
            part.append(char)
        escaped = char == "\\" and not escaped
    parts.append("".join(part))
    return parts


def _field_term(term: str) -> tuple[str, Operator, str]:
    for at, char in enumerate(term):
        if char == "\\":
            break
        for sign, operator in (("!=", "notin"), ("==", "in"), ("=", "in")):
            if term.startswith(sign, at):
                return term[:at].strip(), operator, _unescape(term[at + len(sign) :])  # type: ignore[return-value]
    raise InvalidError(f"no operator in {term[:80]!r}", where="field selector", fix="use =, == or !=")


def _unescape(value: str) -> str:
    out: list[str] = []
    chars = iter(value)
    for char in chars:
        if char == "\\":
            following = next(chars, "")
            if following not in ("\\", ",", "="):
                raise InvalidError(f"invalid escape in {value[:80]!r}", where="field selector")
            out.append(following)
        elif char in ",=":
            raise InvalidError(f"unescaped {char!r} in {value[:80]!r}", where="field selector", fix="write a backslash")
        else:
            out.append(char)
    return "".join(out)
