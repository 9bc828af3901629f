"""The one form that both rule languages compile into: a tree of and, or, not over conditions on parts of a record.

`simplified` folds what is constant, joins what belongs together and puts the cheap before the dear; `built` makes the
tree a closure. A body that the API server cut off is unknown: no condition on it holds, and none fails.
"""

import enum
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from ugallu_audit_detection.sigma.keywords import any_keyword, any_text
from ugallu_audit_detection.sigma.pattern import Network, Pattern, TextTest, any_network, any_pattern, any_regex
from ugallu_audit_detection.sigma.questions import Asked
from ugallu_audit_detection.sigma.values import number_of, text_of, tidy
from ugallu_audit_detection.sigma.view import Clues, RecordView

Holds = Callable[[RecordView], bool]
ValueTest = Callable[[Any], bool]


class Part(enum.IntEnum):
    """Where a condition looks; the number is what looking there costs, roughly in tenths of a microsecond."""

    KEY = 0
    """Verb, stage, API group, resource, subresource: the matcher decides these once per combination."""
    ENVELOPE = 1
    USER = 3
    STATUS = 5
    ANNOTATIONS = 10
    SOURCES = 11
    REQUEST = 60
    RESPONSE = 80
    EFFECTIVE = 90
    CONTEXT = 200
    """What surrounds the event, whether or not it has a body; see `surroundings`."""
    EVERYTHING = 500


_BODIES = (Part.REQUEST, Part.RESPONSE, Part.EFFECTIVE, Part.EVERYTHING)
"""Where a body that was cut off leaves a condition unknown."""


class Shape(enum.Enum):
    """What reading a field gives."""

    TEXT = enum.auto()
    """One text, empty when absent."""
    TEXTS = enum.auto()
    """Any number of texts."""
    VALUES = enum.auto()
    """Any number of JSON values, none of them null."""


@dataclass(frozen=True, slots=True)
class Field:
    """A part of a record by the name that authors know it under. The name is its identity."""

    name: str
    part: Part
    shape: Shape
    read: Callable[[RecordView], Any] = field(compare=False, repr=False)
    clue: bytes = field(default=b"", compare=False, repr=False)
    """What the bytes of a body hold whenever the field has a value there; empty when nothing is certain."""


# ------------------------------------------------------------------------------------------------- tests of one value


@lru_cache(maxsize=4096)
def _text_test(patterns: tuple[Pattern, ...], fold: bool) -> TextTest:
    """Return the same test for the same patterns: they stand in what is left of a rule for many kinds of request."""
    return any_pattern(patterns, fold=fold)


class Texts(msgspec.Struct, frozen=True):
    """The value's text matches one of the patterns."""

    patterns: tuple[Pattern, ...]
    fold: bool = False

    def on_text(self) -> TextTest:
        """Return the test of a text."""
        return _text_test(self.patterns, self.fold)

    def __str__(self) -> str:
        if any(pattern.matches_all for pattern in self.patterns):
            return "is present"
        shown = [str(pattern) or '""' for pattern in self.patterns[:8]]
        more = f" or {len(self.patterns) - 8} others" if len(self.patterns) > 8 else ""
        manner = "is" if all(pattern.literal is not None for pattern in self.patterns) else "is like"
        return f"{manner} {' or '.join(shown)}{more}" if self.patterns else "is something that never occurs"


class Regexes(msgspec.Struct, frozen=True):
    """One of the expressions is found in the value's text."""

    sources: tuple[str, ...]
    flags: str = ""

    def on_text(self) -> TextTest:
        """Return the test of a text."""
        return any_regex(self.sources, flags=self.flags)

    def __str__(self) -> str:
        return f"matches the expression {' or '.join(self.sources)}"


class Networks(msgspec.Struct, frozen=True):
    """The value is an address in one of the networks."""

    networks: tuple[Network, ...]

    def on_text(self) -> TextTest:
        """Return the test of a text."""
        return any_network(self.networks)

    def __str__(self) -> str:
        return f"is an address in {' or '.join(map(str, self.networks))}"


class Numbers(msgspec.Struct, frozen=True):
    """The value is a number, or text that spells one, within all bounds given."""

    equals: float | int | None = None
    gt: float | int | None = None
    ge: float | int | None = None
    lt: float | int | None = None
    le: float | int | None = None

    def holds(self, value: Any) -> bool:  # noqa: ANN401 - any JSON
        """Test one value."""
        number = number_of(value)
        return (
            number is not None
            and (self.equals is None or number == self.equals)
            and (self.gt is None or number > self.gt)
            and (self.ge is None or number >= self.ge)
            and (self.lt is None or number < self.lt)
            and (self.le is None or number <= self.le)
        )

    def __str__(self) -> str:
        bounds = [("=", self.equals), (">", self.gt), (">=", self.ge), ("<", self.lt), ("<=", self.le)]
        return "is a number " + " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)


class TimePart(msgspec.Struct, frozen=True):
    """One part of a time in UTC (`minute`, `hour`, `day`, `week`, `month`, `year`) is as `number` says."""

    part: str
    number: Numbers

    def __str__(self) -> str:
        return f"has a {self.part} that {self.number}"

    def holds(self, value: Any) -> bool:  # noqa: ANN401 - any JSON
        """Test one value."""
        import datetime as dt

        if not isinstance(value, str):
            return False
        try:
            moment = msgspec.convert(value, dt.datetime).astimezone(dt.UTC)
        except (msgspec.ValidationError, ValueError, OverflowError):
            return False
        return self.number.holds(moment.isocalendar().week if self.part == "week" else getattr(moment, self.part))


class Either(msgspec.Struct, frozen=True):
    """One of several tests hits the value."""

    tests: "tuple[Test, ...]"

    def __str__(self) -> str:
        return " or ".join(map(str, self.tests))


class Both(msgspec.Struct, frozen=True):
    """Several tests hit the same value."""

    tests: "tuple[Test, ...]"

    def __str__(self) -> str:
        return " and ".join(f"({test})" if isinstance(test, Either) else str(test) for test in self.tests)


class AsPath(msgspec.Struct, frozen=True):
    """The value, tidied up as a path, is hit."""

    test: "Test"

    def __str__(self) -> str:
        return f"as a path {self.test}"


class Given(msgspec.Struct, frozen=True):
    """There is a value."""

    def __str__(self) -> str:
        return "is present"


Test = Texts | Regexes | Networks | Numbers | TimePart | Either | Both | AsPath | Given


def value_test(test: Test) -> ValueTest:
    """Return the closure that tests one JSON value which is not null."""
    match test:
        case Texts() | Regexes() | Networks():
            on_text = test.on_text()
            return lambda value: on_text(value) if type(value) is str else on_text(text_of(value))
        case Numbers() | TimePart():
            return test.holds
        case Given():
            return lambda _value: True
        case AsPath(inner):
            hit_path = value_test(inner)
            return lambda value: hit_path(tidy(text_of(value)))
        case Either(tests):
            some = [value_test(each) for each in tests]
            return some[0] if len(some) == 1 else lambda value: any(hit(value) for hit in some)
        case Both(tests):
            every = [value_test(each) for each in tests]
            return every[0] if len(every) == 1 else lambda value: all(hit(value) for hit in every)


# ------------------------------------------------------------------------------------------------------- conditions


class Atom(msgspec.Struct, frozen=True):
    """Some value of the field hits. `present`: an empty text is no value (Sigma), else it is one (native)."""

    field: Field
    test: Test
    present: bool = False

    @property
    def part(self) -> Part:
        """Where it looks."""
        return self.field.part

    def __str__(self) -> str:
        return f"{self.field.name} {self.test}"


@dataclass(frozen=True, slots=True)
class Check:
    """A condition that is more than one field and one test. `name` is its identity and its sentence."""

    name: str
    part: Part
    holds: Holds = field(compare=False, repr=False)
    fails: Holds | None = field(default=None, compare=False, repr=False)
    """Whether it is known not to hold, for one that may be neither."""
    asks: tuple[Asked, ...] = field(default=(), compare=False, repr=False)
    """What must be remembered for it."""

    def __str__(self) -> str:
        return self.name


class Const(msgspec.Struct, frozen=True):
    """Always or never."""

    value: bool


class All(msgspec.Struct, frozen=True):
    """Every part holds."""

    parts: "tuple[Expr, ...]"


class Any_(msgspec.Struct, frozen=True):  # noqa: N801 - the name `Any` is taken
    """Some part holds."""

    parts: "tuple[Expr, ...]"


class Not(msgspec.Struct, frozen=True):
    """The part does not hold."""

    part: "Expr"


Leaf = Atom | Check
Expr = Leaf | Const | All | Any_ | Not

ALWAYS, NEVER = Const(True), Const(False)


def all_of(parts: Iterable[Expr]) -> Expr:
    """Return the conjunction; of nothing: always."""
    return All(tuple(parts))


def any_of(parts: Iterable[Expr]) -> Expr:
    """Return the disjunction; of nothing: never."""
    return Any_(tuple(parts))


def leaves(expr: Expr) -> Iterable[Leaf]:
    """Yield every condition of the tree, from left to right."""
    if isinstance(expr, Atom | Check):
        yield expr
    elif isinstance(expr, Not):
        yield from leaves(expr.part)
    elif isinstance(expr, All | Any_):
        for part in expr.parts:
            yield from leaves(part)


def size(expr: Expr) -> int:
    """Count the nodes."""
    if isinstance(expr, All | Any_):
        return 1 + sum(size(part) for part in expr.parts)
    return 1 + size(expr.part) if isinstance(expr, Not) else 1


# ------------------------------------------------------------------------------------------------------- simplifying


def simplified(expr: Expr, known: Callable[[Leaf], bool | None] = lambda _leaf: None) -> Expr:
    """Return an equal tree, smaller and in better order; `known` decides conditions that are settled already.

    Negations end up at the conditions, so that `built` can treat a negated look into an unknown body as unknown.
    """
    return _simple(expr, known, negated=False)


def _simple(expr: Expr, known: Callable[[Leaf], bool | None], *, negated: bool) -> Expr:
    match expr:
        case Const(value):
            return Const(value != negated)
        case Not(part):
            return _simple(part, known, negated=not negated)
        case All(parts) | Any_(parts):
            simple = [_simple(part, known, negated=negated) for part in parts]
            return _joined(simple, conjunction=isinstance(expr, All) != negated)
        case _:
            if isinstance(expr, Atom) and isinstance(expr.test, Texts) and not expr.test.patterns:
                return Const(negated)  # no pattern: never
            settled = known(expr)
            if settled is not None:
                return Const(settled != negated)
            return Not(expr) if negated else expr


def _joined(parts: Sequence[Expr], *, conjunction: bool) -> Expr:
    kind: type[All | Any_] = All if conjunction else Any_
    ends = Const(not conjunction)
    flat: dict[Expr, None] = {}
    for part in parts:
        for each in part.parts if isinstance(part, kind) else (part,):
            if each == ends:
                return ends
            if not isinstance(each, Const):
                flat[each] = None
    if any(isinstance(part, Not) and part.part in flat for part in flat):
        return ends
    merged = _merged(flat, conjunction=conjunction)
    if merged is None:
        return ends
    if not merged:
        return Const(conjunction)
    if len(merged) == 1:
        return merged[0]
    return kind(tuple(sorted(merged, key=cost)))


def _merged(parts: Iterable[Expr], *, conjunction: bool) -> list[Expr] | None:
    """Join text conditions on one field; None when a conjunction asks one text to be two things."""
    groups: dict[tuple[bool, str, Field, bool, bool], list[Atom]] = {}
    rest: list[Expr] = []
    for part in parts:
        atom = part.part if isinstance(part, Not) else part
        if not (isinstance(atom, Atom) and isinstance(atom.test, Texts)):
            rest.append(part)
            continue
        negated = isinstance(part, Not)
        # `a or b` on one field is one set, and so is `not a and not b`; `a and b` on one text is an intersection.
        if negated == conjunction:
            groups.setdefault((negated, "union", atom.field, atom.test.fold, atom.present), []).append(atom)
        elif not negated and atom.field.shape is Shape.TEXT and _literal(atom.test):
            groups.setdefault((False, "intersection", atom.field, atom.test.fold, atom.present), []).append(atom)
        else:
            rest.append(part)
    for (negated, how, *_), atoms in groups.items():
        first = atoms[0]
        assert isinstance(first.test, Texts)
        patterns = list(first.test.patterns)
        for atom in atoms[1:]:
            assert isinstance(atom.test, Texts)
            if how == "union":
                patterns += [pattern for pattern in atom.test.patterns if pattern not in patterns]
            elif first.test.fold:
                allowed = {str(pattern).casefold() for pattern in atom.test.patterns}
                patterns = [pattern for pattern in patterns if str(pattern).casefold() in allowed]
            else:
                patterns = [pattern for pattern in patterns if pattern in atom.test.patterns]
        if not patterns:
            return None
        whole = Atom(first.field, Texts(tuple(patterns), first.test.fold), first.present)
        rest.append(Not(whole) if negated else whole)
    return rest


def _literal(test: Texts) -> bool:
    return all(pattern.literal is not None for pattern in test.patterns)


def cost(expr: Expr) -> int:
    """Return what deciding the tree costs, in the units of `Part`."""
    if isinstance(expr, Atom | Check):
        return expr.part
    if isinstance(expr, Not):
        return cost(expr.part)
    return max((cost(part) for part in expr.parts), default=0) + len(expr.parts) if not isinstance(expr, Const) else 0


# ----------------------------------------------------------------------------------------------------------- building


def built(expr: Expr) -> Holds:
    """Return the closure of a simplified tree."""
    match expr:
        case Const(value):
            return lambda _view: value
        case Atom():
            return _built_atom(expr)
        case Check():
            return expr.holds
        case Not(Check(fails=fails)) if fails is not None:
            return fails
        case Not(part):
            holds = built(part)
            if any(leaf.part in _BODIES for leaf in leaves(part)):
                return lambda view: not holds(view) and not view.truncated
            return lambda view: not holds(view)
        case All(parts):
            return _every([built(part) for part in parts])
        case Any_(parts):
            return _some([built(part) for part in parts])


def _built_atom(atom: Atom) -> Holds:
    read, test = atom.field.read, atom.test
    if atom.part is Part.EVERYTHING and isinstance(test, Texts):
        return any_keyword(test.patterns, fold=test.fold)
    if atom.part is Part.EVERYTHING and isinstance(test, Regexes | Networks):
        return any_text(test.on_text())
    if atom.field.shape is Shape.TEXT:
        if isinstance(test, Given):
            return lambda view: read(view) != ""
        hit = test.on_text() if isinstance(test, Texts | Regexes | Networks) else value_test(test)
        if atom.present and hit(""):
            return lambda view: (text := read(view)) != "" and hit(text)
        return lambda view: hit(read(view))
    if isinstance(test, Given) or (isinstance(test, Texts) and any(each.matches_all for each in test.patterns)):
        return _guarded(atom, lambda view: bool(read(view)))
    hit = (
        test.on_text()
        if atom.field.shape is Shape.TEXTS and isinstance(test, Texts | Regexes | Networks)
        else value_test(test)
    )

    if atom.part is Part.STATUS:
        return _coded(test, hit)

    def holds(view: RecordView) -> bool:
        for value in read(view):  # noqa: SIM110 - a loop is twice as fast as any() with a generator
            if hit(value):
                return True
        return False

    return _guarded(atom, holds)


@lru_cache(maxsize=1024)
def _codes(test: Test) -> frozenset[int]:
    """Return the codes that hit. A few tests stand in all rules, which are built anew for every kind of request."""
    hit = value_test(test)
    return frozenset(code for code in range(1, 1000) if hit(code))


def _coded(test: Test, hit: ValueTest) -> Holds:
    """Return what tests the response code, the one value of a status that is no text.

    Rules about refusals ask it of every event, so the answers for all real codes are known beforehand.
    """
    codes = _codes(test)

    def holds(view: RecordView) -> bool:
        code = view.response.code
        return code in codes or (not 0 <= code < 1000 and hit(code))

    return holds


def _guarded(atom: Atom, holds: Holds) -> Holds:
    r"""Return `holds`, asked only if the bytes of the body hold what a hit would leave in them.

    Searching costs a fifth of decoding, and is done once for all rules that look for the same. Whatever could spell the
    same in other bytes (`\u` escapes, for folded text also anything beyond ASCII) means that the body is decoded.
    """
    clue, test = atom.field.clue, atom.test
    body = _CLUES.get(atom.part)
    if not clue or body is None:
        return holds
    pieces = pieces_of(test.patterns) if isinstance(test, Texts) and not test.fold else ()
    # One piece is cheaper to search than the body is to decode; several are not.
    clues = (clue, *pieces) if len(pieces) == 1 else (clue,)
    if len(clues) == 1:
        return lambda view: not body(view).lacks(clue) and holds(view)
    piece = clues[1]
    return lambda view: not body(view).lacks(clue) and not body(view).lacks(piece) and holds(view)


_CLUES: dict[Part, Callable[[RecordView], Clues]] = {
    Part.REQUEST: lambda view: view.request_clues,
    Part.RESPONSE: lambda view: view.response_clues,
    Part.EFFECTIVE: lambda view: view.effective_clues,
}
_BREAKS = re.compile(r"""[\x00-\x1f\x7f"{}\[\],:/\\]""")
_NUMERIC = frozenset("0123456789+-.eEinf")


def pieces_of(patterns: Sequence[Pattern]) -> tuple[bytes, ...]:
    """Return for each pattern some text that the JSON of every match holds as it is; nothing if one has none.

    The text of a value may differ from its JSON in escapes, in how a number is written, and in the white space and
    order of an object: what those could touch is no clue.
    """
    pieces: list[bytes] = []
    for pattern in patterns:
        some = [piece for part in pattern.parts if isinstance(part, str) for piece in _BREAKS.split(part)]
        some = [piece for piece in some if not _NUMERIC.issuperset(piece)]
        if not some:
            return ()
        pieces.append(max(some, key=len).encode("utf-8", "surrogatepass"))
    return tuple(dict.fromkeys(pieces))


def _every(parts: Sequence[Holds]) -> Holds:
    if len(parts) == 2:
        first, second = parts
        return lambda view: first(view) and second(view)
    if len(parts) == 3:
        one, two, three = parts
        return lambda view: one(view) and two(view) and three(view)
    several = tuple(parts)

    def every(view: RecordView) -> bool:
        for part in several:  # noqa: SIM110
            if not part(view):
                return False
        return True

    return every


def _some(parts: Sequence[Holds]) -> Holds:
    if len(parts) == 2:
        first, second = parts
        return lambda view: first(view) or second(view)
    several = tuple(parts)

    def some(view: RecordView) -> bool:
        for part in several:  # noqa: SIM110
            if part(view):
                return True
        return False

    return some
