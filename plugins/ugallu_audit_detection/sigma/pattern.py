"""Text patterns of both rule languages: globs, RE2 expressions and networks, compiled to plain predicates.

Nothing here backtracks: a glob costs one pass over the text, a regex runs on RE2. `?` of the native grammar stands for
one byte of UTF-8, `?` of Sigma for one character.
"""

import contextlib
import enum
import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown

MAX_STARS = 8
MAX_GLOB = 512
MAX_REGEX = 512
MAX_WORDS = 8
"""Words that are looked for one by one."""
REGEX_MEMORY = 4 << 20
"""What RE2 may spend on one expression, in bytes: its automaton falls back to a slower, still linear one beyond."""

TextTest = Callable[[str], bool]


class Wild(enum.Enum):
    """A wildcard inside a pattern."""

    ANY = "*"
    BYTE = "byte"
    CHAR = "?"


class Pattern(msgspec.Struct, frozen=True):
    """Literal text and wildcards in order, anchored at both ends. Neighbouring literals are joined."""

    parts: tuple[str | Wild, ...]

    def __str__(self) -> str:
        return "".join(part if isinstance(part, str) else "*" if part is Wild.ANY else "?" for part in self.parts)

    @property
    def literal(self) -> str | None:
        """The one text that this pattern matches, if it has no wildcard."""
        if not self.parts:
            return ""
        first = self.parts[0]
        return first if len(self.parts) == 1 and isinstance(first, str) else None

    @property
    def matches_all(self) -> bool:
        """Whether every text matches."""
        return bool(self.parts) and all(part is Wild.ANY for part in self.parts)


def glob(text: str, *, where: str) -> Pattern:
    """Parse a native glob: `*` any run, `?` one byte, nothing else is special.

    Raises `RuleError` with reason GlobBudget for more than 8 stars or 512 characters.
    """
    if len(text) > MAX_GLOB:
        raise RuleError(
            Reason.GLOB_BUDGET,
            f"the pattern {shown(text)} is {len(text)} characters long",
            where=where,
            fix=f"at most {MAX_GLOB}",
        )
    if text.count("*") > MAX_STARS:
        raise RuleError(
            Reason.GLOB_BUDGET,
            f"the pattern {shown(text)} has {text.count('*')} stars",
            where=where,
            fix=f"at most {MAX_STARS}; several patterns in one list mean any of them",
        )
    parts: list[str | Wild] = []
    for char in text:
        if char == "*":
            if not parts or parts[-1] is not Wild.ANY:
                parts.append(Wild.ANY)
        elif char == "?":
            parts.append(Wild.BYTE)
        elif parts and isinstance(parts[-1], str):
            parts[-1] += char
        else:
            parts.append(char)
    return Pattern(tuple(parts))


def exactly(text: str) -> Pattern:
    """Return the pattern that matches `text` alone."""
    return Pattern((text,) if text else ())


def folded(pattern: Pattern) -> Pattern:
    """Return the pattern for texts that went through `str.casefold`."""
    return Pattern(tuple(part.casefold() if isinstance(part, str) else part for part in pattern.parts))


def any_pattern(patterns: Sequence[Pattern], *, fold: bool = False) -> TextTest:
    """Return whether a text matches one of the patterns; with `fold`, without regard to case. No pattern: never."""
    if fold:
        patterns = [folded(pattern) for pattern in patterns]
    if any(pattern.matches_all for pattern in patterns):
        return lambda _text: True
    exact, prefixes, suffixes, inner, others = set[str](), list[str](), list[str](), list[str](), list[Pattern]()
    for pattern in patterns:
        match pattern.parts:
            case ():
                exact.add("")
            case (str(whole),):
                exact.add(whole)
            case (str(head), Wild.ANY):
                prefixes.append(head)
            case (Wild.ANY, str(tail)):
                suffixes.append(tail)
            case (Wild.ANY, str(middle), Wild.ANY):
                inner.append(middle)
            case _:
                others.append(pattern)
    checks: list[TextTest] = []
    if len(exact) == 1:
        checks.append(next(iter(exact)).__eq__)
    elif exact:
        checks.append(frozenset(exact).__contains__)
    if prefixes:
        checks.append(_starts(tuple(dict.fromkeys(prefixes))))
    if suffixes:
        checks.append(_ends(tuple(dict.fromkeys(suffixes))))
    if inner:
        checks.append(_contains(tuple(dict.fromkeys(inner))))
    checks.extend(_several(others))
    test = _either(checks)
    return (lambda text: test(text.casefold())) if fold else test


def _either(checks: Sequence[TextTest]) -> TextTest:
    if not checks:
        return lambda _text: False
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        first, second = checks
        return lambda text: first(text) or second(text)
    several = tuple(checks)

    def either(text: str) -> bool:
        for check in several:  # noqa: SIM110 - a loop is twice as fast as any() with a generator
            if check(text):
                return True
        return False

    return either


def _starts(heads: tuple[str, ...]) -> TextTest:
    return lambda text: text.startswith(heads)


def _ends(tails: tuple[str, ...]) -> TextTest:
    return lambda text: text.endswith(tails)


def _contains(middles: tuple[str, ...]) -> TextTest:
    if len(middles) == 1:
        middle = middles[0]
        return lambda text: middle in text
    if len(middles) > MAX_WORDS:
        # One RE2 automaton beats a loop of searches, unless there are too many words for it.
        import re2

        with contextlib.suppress(re2.error):
            found = re2.compile("|".join(map(re2.escape, middles)), _options()).search
            return lambda text: found(_clean(text)) is not None

    def contains(text: str) -> bool:
        for middle in middles:  # noqa: SIM110
            if middle in text:
                return True
        return False

    return contains


def _several(patterns: Sequence[Pattern]) -> list[TextTest]:
    """Return tests of which one passes when a text matches one of the patterns, each of them of several pieces.

    Those that begin alike (`*command=*curl*`, `*command=*sh`) share one search for that.
    """
    alike: dict[tuple[str | Wild, ...], list[Pattern]] = {}
    for pattern in patterns:
        alike.setdefault(pattern.parts[: _beginning(pattern)], []).append(pattern)
    return [
        _after(beginning, [Pattern(pattern.parts[len(beginning) - 1 :]) for pattern in some])
        if beginning and len(some) > 1
        else _either([_general(pattern) for pattern in some])
        for beginning, some in alike.items()
    ]


def _beginning(pattern: Pattern) -> int:
    """Return how many parts come up to the second run of anything, where that is `head*middle*` or `*middle*`."""
    match pattern.parts:
        case (str(), Wild.ANY, str(), Wild.ANY, *_):
            return 4
        case (Wild.ANY, str(), Wild.ANY, *_):
            return 3
        case _:
            return 0


def _after(beginning: tuple[str | Wild, ...], rests: Sequence[Pattern]) -> TextTest:
    """Return the test of a text that begins with `beginning`, which ends in any run, and goes on like one of `rests`.

    The leftmost place leaves most of the text to the rest, so no other one has to be tried.
    """
    *heads, middle = (part for part in beginning if isinstance(part, str))
    head = "".join(heads)
    goes_on = any_pattern(rests)

    def test(text: str) -> bool:
        at = text.find(middle, len(head)) if text.startswith(head) else -1
        return at >= 0 and goes_on(text[at + len(middle) :])

    return test


def _general(pattern: Pattern) -> TextTest:
    if Wild.BYTE in pattern.parts or Wild.CHAR in pattern.parts:
        return _with_single(pattern)
    pieces = [part for part in pattern.parts if isinstance(part, str)]
    head = pieces.pop(0) if isinstance(pattern.parts[0], str) else ""
    tail = pieces.pop() if pieces and isinstance(pattern.parts[-1], str) else ""
    middles = tuple(pieces)
    least = len(head) + len(tail)

    def pieces_in_order(text: str) -> bool:
        if len(text) < least or not text.startswith(head) or not text.endswith(tail):
            return False
        at, end = len(head), len(text) - len(tail)
        for middle in middles:
            at = text.find(middle, at, end)
            if at < 0:
                return False
            at += len(middle)
        return True

    return pieces_in_order


def _with_single(pattern: Pattern) -> TextTest:
    import re2

    # What holds the longest piece is seldom a near miss: a search costs a tenth of an expression.
    piece = max((part for part in pattern.parts if isinstance(part, str)), key=len, default="")
    if Wild.CHAR in pattern.parts:
        source = "".join(
            re2.escape(part) if isinstance(part, str) else ".*" if part is Wild.ANY else "." for part in pattern.parts
        )
        by_char = re2.compile(f"(?s:{source})", _options()).fullmatch
        return lambda text: piece in text and by_char(_clean(text)) is not None
    encoded = b"".join(
        re2.escape(part.encode("utf-8", "surrogatepass"))
        if isinstance(part, str)
        else b".*"
        if part is Wild.ANY
        else b"."
        for part in pattern.parts
    )
    by_byte = re2.compile(b"(?s:" + encoded + b")", _options(latin1=True)).fullmatch
    return lambda text: piece in text and by_byte(text.encode("utf-8", "surrogatepass")) is not None


def _options(*, latin1: bool = False) -> Any:  # noqa: ANN401 - re2 has no types
    import re2

    options = re2.Options()
    options.max_mem = REGEX_MEMORY
    options.log_errors = False
    if latin1:
        options.encoding = re2.Options.Encoding.LATIN1
    return options


def _clean(text: str) -> str:
    """Return `text` without lone surrogates, which RE2 cannot take."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def any_regex(sources: Sequence[str], *, flags: str = "", where: str = "") -> TextTest:
    """Return whether one of the RE2 expressions is found in a text. `flags` are of `i`, `m` and `s`.

    Raises `RuleError` with reason Regex for what RE2 refuses, and beyond 512 characters.
    """
    import re2

    searches: list[Callable[[str], object]] = []
    for source in sources:
        if len(source) > MAX_REGEX:
            raise RuleError(
                Reason.REGEX,
                f"the expression {shown(source)} is {len(source)} characters long",
                where=where,
                fix=f"at most {MAX_REGEX}",
            )
        try:
            plain = re2.compile(source, _options())  # alone first: `a)(b` must not pass by the brackets added here
            searches.append(re2.compile(f"(?{flags}:{source})", _options()).search if flags else plain.search)
        except (re2.error, UnicodeEncodeError) as error:
            why = error.args[0] if error.args else error
            why = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
            raise RuleError(
                Reason.REGEX,
                f"the expression {shown(source)} is not RE2: {why}",
                where=where,
                fix="RE2 has no look-around and no back-references: split the condition",
            ) from error

    if len(searches) > 1:
        # One automaton for all of them costs what one of them does, unless they are too large for it together.
        with contextlib.suppress(re2.error):
            searches = [re2.compile("|".join(f"(?{flags}:{source})" for source in sources), _options()).search]
    if len(searches) == 1:
        only = searches[0]
        return lambda text: only(_clean(text)) is not None

    def found(text: str) -> bool:
        text = _clean(text)
        return any(search(text) is not None for search in searches)

    return found


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(text: str, *, where: str) -> Network:
    """Parse a CIDR or a bare address. Raises `RuleError` with reason CompileError, also for an address inside one."""
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise RuleError(
            Reason.COMPILE_ERROR, f"{shown(text)} is no network", where=where, fix="write 10.0.0.0/8 or fd00::/8"
        ) from error
    address, slash, _ = text.partition("/")
    if slash and ipaddress.ip_address(address) != found.network_address:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{shown(text)} is an address in a network",
            where=where,
            fix=f"{found} for the network, {address} for the address",
        )
    return found


def any_network(networks: Sequence[Network]) -> TextTest:
    """Return whether a text is an IP address inside one of the networks; mapped IPv4 counts as IPv4."""
    known: dict[str, bool] = {}

    def inside(text: str) -> bool:
        hit = known.get(text)
        if hit is None:
            address = address_of(text)
            hit = address is not None and any(address in net for net in networks)
            if len(known) < 1024 and len(text) <= 64:
                known[text] = hit
        return hit

    return inside


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address; None for anything else."""
    if len(text) > 64:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
