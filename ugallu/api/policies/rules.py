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

JSON_PATH: Final = r"^[$](pod|ctr)?([.][^.\[\]]+|\[([0-9]{1,9}|[*]|'[^'\]]+')\])*$"

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


def _glob(g: str) -> str:
    return f"{g} != '' && size({g}) <= {MAX_GLOB} && {g}.matches('^[^*]*([*][^*]*){{0,{MAX_STARS}}}$')"


def _path(p: str) -> str:
    return f"size({p}) <= {MAX_PATH} && {p}.matches({text(JSON_PATH)})"


def _asks(leaf: str) -> str:
    """Tell whether a leaf has a predicate: a list, a map or a value that is not empty."""
    return (
        f"{leaf}.exists(k, !(k in ['anyOf', 'noneOf', 'not', 'sourceIPScope', 'whenUnknown']) &&"
        f" (type({leaf}[k]) == list || type({leaf}[k]) == map ? size({leaf}[k]) > 0 : {leaf}[k] != ''))"
    )


def sigma_rule_spec() -> Policy:
    """6: what the compiler would refuse, and what would hit every request."""
    lists = ", ".join(f"?l.?{path}" for path in _GLOB_LISTS)
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
                "variables.leaves.all(l, [l, l.?objectRef.orValue({}), l.?user.orValue({})].all(m,"
                f" m.all(k, type(m[k]) != list || size(m[k]) <= {MAX_LIST}))"
                f" && {_ENTRIES}.all(es, es.all(e, size(e.?patterns.orValue([])) <= {MAX_LIST})))"
                f" && variables.spec.all(k, type(variables.spec[k]) != list || size(variables.spec[k]) <= {MAX_LIST})",
                f"spec: a list has at most {MAX_LIST} entries; split the rule",
            ),
            Validation(
                f"{_asks('variables.match')} || size(variables.anyOf) > 0 && variables.anyOf.all(l, {_asks('l')})"
                " || variables.spec.?sigma.orValue('') != ''",
                "spec.match must ask something: without a predicate, or with an empty leaf in anyOf, it is every event",
            ),
            Validation(
                f"variables.leaves.all(l, [{lists}].all(gs, gs.all(g, {_glob('g')}))"
                f" && {_ENTRIES}.all(es, es.all(e, e.?patterns.orValue([]).all(g, {_glob('g')})))"
                f" && {_SAME}.all(s, s.?all.orValue([]).all(e, e.?patterns.orValue([]).all(g, {_glob('g')}))))",
                f"spec.match: a glob is not empty and has at most {MAX_GLOB} characters and {MAX_STARS} stars",
            ),
            Validation(
                f"variables.leaves.all(l, {_ENTRIES}.all(es, es.all(e, {_path('e.jsonPath')}))"
                f" && [?l.?fieldAbsent, ?l.?changed].all(ps, ps.all(p, {_path('p')}))"
                f" && {_SAME}.all(s, {_path('s.path')} && s.?all.orValue([]).all(e, {_path('e.jsonPath')})))",
                f"spec.match: a jsonPath starts with $, has at most {MAX_PATH} characters, and consists of"
                " .name .* [0] [*] ['key']",
            ),
            Validation(
                "[variables.spec.?rateLimit.?burst.orValue(50), variables.spec.?rateLimit.?sustainedPerSec.orValue(5)]"
                f".all(n, n >= 1 && n <= {MAX_RATE})",
                f"spec.rateLimit: burst and sustainedPerSec must be 1 to {MAX_RATE}",
            ),
        ),
    )
