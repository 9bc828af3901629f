"""Policy 6: a SigmaRule that would never compile, or would flood, is refused when it is applied."""

from typing import Final

from ugallu.api.catalog import CATALOGUE
from ugallu.api.policies.expressions import GUARDS, WRITES, is_word, ours, text, words
from ugallu.api.policies.policy import Policy, Validation, Variable

MAX_LEAVES: Final = 64
MAX_LIST: Final = 256
MAX_GLOB: Final = 512
MAX_STARS: Final = 8
MAX_PATH: Final = 256
MAX_RATE: Final = 10_000
MAX_SIGNALS: Final = 32
MAX_SIGNAL: Final = 1024
MAX_ALL_LEAVES: Final = 256
"""With the exceptions; a leaf more is one more of everything that is asked of a leaf."""
MAX_PATTERNS: Final = 4096
MAX_PATTERN_TEXT: Final = 1 << 19
MAX_PATHS: Final = 2048
MAX_PATH_TEXT: Final = 1 << 17
"""What both engines can look at: an API server spends a million units on an expression, which a pattern takes some 40
of and a character less than 1 (of a path 2); ours goes ten thousand times through a loop."""
_BREAK: Final = r"'\u0000'"
"""What precedes each pattern where all of them are one text; nothing that is asked for has it."""

JSON_PATH: Final = r"^[$](pod|ctr|csr)?([.][^.\[\]]+|\[([0-9]{1,9}|[*]|'[^'\]]+')\])*$"

_GLOB_LISTS: Final = (
    "objectRef.?nameGlob",
    "nameGlob",
    "namespaceGlob",
    "userGlob",
    "user.?usernameGlob",
    "user.?notUsernameGlob",
    "impersonatedUser.?usernameGlob",
    "impersonatedUser.?notUsernameGlob",
    "requestURIGlob",
    "userAgentGlob",
    "responseMessageGlob",
)
_ENTRIES: Final = "[?l.?requestObjectGlob, ?l.?responseObjectGlob, ?l.?objectGlob, ?l.?previous, ?l.?targetPod]"
"""Lists of path and patterns of the leaf `l`."""
_SAME: Final = "l.?sameElement.orValue([])"
_TEXTS: Final = ("globs", "patterns", "samePatterns")
_PATHS: Final = ("paths", "samePaths")


def _texts(lists: str) -> str:
    """Return the texts of a list of lists as one, each with a break before it: a loop a list, and not one a text."""
    return f"{lists}.map(x, size(x) > 0 ? {_BREAK} + x.join({_BREAK}) : '').join('')"


def _of_leaves(texts: str) -> str:
    return f"variables.leaves.map(l, {texts}).join('')"


def _parts(name: str) -> str:
    return f"variables.{name}.split({_BREAK})"


def _full(name: str, count: int, characters: int) -> str:
    """Tell whether a text of many is more than what may be asked; the part before the first break is none."""
    return f"size(variables.{name}) > {characters} || size({_parts(name)}) > {count + 1}"


def _none_empty(name: str) -> str:
    return f"!variables.{name}.contains({_BREAK} + {_BREAK}) && !variables.{name}.endsWith({_BREAK})"


def _globs(name: str) -> Validation:
    good = f"size(g) <= {MAX_GLOB} && g.matches('^[^*]*([*][^*]*){{0,{MAX_STARS}}}$')"
    return Validation(
        f"{_full(name, MAX_PATTERNS, MAX_PATTERN_TEXT)} || {_none_empty(name)} && {_parts(name)}.all(g, {good})",
        f"spec.match: a glob is not empty and has at most {MAX_GLOB} characters and {MAX_STARS} stars",
    )


def _paths(name: str) -> Validation:
    good = f"p == '' || size(p) <= {MAX_PATH} && p.matches({text(JSON_PATH)})"
    return Validation(
        f"{_full(name, MAX_PATHS, MAX_PATH_TEXT)} || {_none_empty(name)} && {_parts(name)}.all(p, {good})",
        f"spec.match: a jsonPath starts with $, has at most {MAX_PATH} characters, and consists of"
        " .name .* [0] [*] ['key']",
    )


def _short(expression: str) -> Validation:
    return Validation(expression, f"spec: a list has at most {MAX_LIST} entries; split the rule")


def _no_long_list(of: str) -> str:
    return f"{of}.all(k, type({of}[k]) != list || size({of}[k]) <= {MAX_LIST})"


def _bounded(name: str, what: str, count: int, characters: int) -> Validation:
    return Validation(
        f"!({_full(name, count, characters)})",
        f"spec.match: at most {count} {what} in all leaves together, of {characters} characters; split the rule",
    )


def _asks(leaf: str) -> str:
    """Tell whether a leaf has a predicate: a list, a map or a value that is not empty."""
    return (
        f"{leaf}.exists(k, !(k in ['anyOf', 'noneOf', 'not', 'sourceIPScope', 'whenUnknown']) &&"
        f" (type({leaf}[k]) == list || type({leaf}[k]) == map ? size({leaf}[k]) > 0 : {leaf}[k] != ''))"
    )


def sigma_rule_spec() -> Policy:
    """6: what the compiler would refuse, and what would hit every request."""
    lists = ", ".join(f"?l.?{path}" for path in _GLOB_LISTS)
    same = f"{_SAME}.map(s, s.?all.orValue([]))"
    return Policy(
        name="ugallu.sigma-rule-spec",
        about="A rule emits a type of the catalogue, asks something of a request, and costs a bounded effort.",
        rules=(ours(WRITES, "sigmarules"),),
        conditions=GUARDS,
        variables=(
            Variable("types", words(CATALOGUE)),
            Variable("spec", "dyn(object).?spec.orValue({})"),
            Variable("match", "variables.spec.?match.orValue({})"),
            Variable("anyOf", "variables.match.?anyOf.orValue([])"),
            Variable("noneOf", "variables.match.?noneOf.orValue([])"),
            Variable("exceptions", "variables.spec.?suppress.?exceptions.orValue([]).map(e, e.?match.orValue({}))"),
            Variable(
                "leaves",
                "[variables.match] + variables.anyOf + variables.noneOf + [?variables.match.?not]"
                " + variables.exceptions",
            ),
            Variable("globs", _of_leaves(_texts(f"[{lists}]"))),
            Variable(
                "patterns",
                _of_leaves(f"{_ENTRIES}.map(es, {_texts('es.map(e, e.?patterns.orValue([]))')}).join('')"),
            ),
            Variable(
                "samePatterns", _of_leaves(f"{same}.map(es, {_texts('es.map(e, e.?patterns.orValue([]))')}).join('')")
            ),
            Variable(
                "paths",
                _of_leaves(
                    f"{_ENTRIES}.map(es, es.map(e, {_BREAK} + e.jsonPath).join('')).join('')"
                    f" + {_texts('[?l.?fieldAbsent, ?l.?changed]')}"
                ),
            ),
            Variable(
                "samePaths",
                _of_leaves(
                    f"{_SAME}.map(s, {_BREAK} + s.path + s.?all.orValue([]).map(e, {_BREAK} + e.jsonPath).join(''))"
                    ".join('')"
                ),
            ),
            Variable("emit", "variables.spec.?emit.orValue({})"),
            Variable("signals", "variables.emit.?signals.orValue({})"),
        ),
        validations=(
            Validation(
                is_word("variables.emit.?securityEventType.orValue('')", "variables.types"),
                "spec.emit.securityEventType is not in the curated catalog",
            ),
            Validation("variables.emit.?class.orValue('') != 'Forensic'", "spec.emit.class must not be Forensic"),
            Validation(
                f"size(variables.signals) <= {MAX_SIGNALS}"
                f" && variables.signals.all(k, size(variables.signals[k]) <= {MAX_SIGNAL})",
                f"spec.emit.signals: at most {MAX_SIGNALS} entries of at most {MAX_SIGNAL} characters",
            ),
            Validation(
                f"size(variables.anyOf) <= {MAX_LEAVES} && size(variables.noneOf) <= {MAX_LEAVES}",
                f"spec.match.anyOf: at most {MAX_LEAVES} leaves, and so in noneOf",
            ),
            Validation(
                f"size(variables.leaves) <= {MAX_ALL_LEAVES}",
                f"spec: at most {MAX_ALL_LEAVES} leaves in match and exceptions together; split the rule",
            ),
            # One loop over everything at a time.
            _short(f"variables.leaves.all(l, {_no_long_list('l')})"),
            _short(
                "variables.leaves.all(l, [l.?objectRef.orValue({}), l.?user.orValue({})]"
                f".all(m, {_no_long_list('m')}))"
            ),
            _short(
                f"variables.leaves.all(l, {_ENTRIES}.all(es, es.all(e, size(e.?patterns.orValue([])) <= {MAX_LIST})))"
            ),
            _short(_no_long_list("variables.spec")),
            *(_bounded(name, "patterns of a kind", MAX_PATTERNS, MAX_PATTERN_TEXT) for name in _TEXTS),
            *(_bounded(name, "paths of a kind", MAX_PATHS, MAX_PATH_TEXT) for name in _PATHS),
            Validation(
                f"{_asks('variables.match')} || size(variables.anyOf) > 0 && variables.anyOf.all(l, {_asks('l')})"
                " || variables.spec.?sigma.orValue('') != ''",
                "spec.match must ask something: without a predicate, or with an empty leaf in anyOf, it is every event",
            ),
            *map(_globs, _TEXTS),
            *map(_paths, _PATHS),
            Validation(
                "[variables.spec.?rateLimit.?burst.orValue(50), variables.spec.?rateLimit.?sustainedPerSec.orValue(5)]"
                f".all(n, n >= 1 && n <= {MAX_RATE})",
                f"spec.rateLimit: burst and sustainedPerSec must be 1 to {MAX_RATE}",
            ),
        ),
    )
