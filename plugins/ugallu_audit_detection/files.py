"""Rules in files: SigmaRule objects in YAML or JSON (one, many, a list), and upstream Sigma rules as published.

A file is measured before it is understood: its size, its nesting and what its aliases would unfold to are bounded.
Every error names file and line.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from ugallu.sdk import Decision, EventClass, Metadata, PermanentError, Severity, SigmaRule, decode_strict
from ugallu_audit_detection.sigma.errors import RuleError

MAX_FILE_BYTES: Final = 16 << 20
MAX_FILES: Final = 5000
MAX_DEPTH: Final = 100
MAX_NODES: Final = 500_000
MAX_ALIASES: Final = 256
SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})

_CHOICES: Final = {
    name: [str(each.value) for each in choices]
    for name, choices in (("severity", Severity), ("class", EventClass), ("decision", Decision))
}
_HINTS: Final = {
    "datetime": "write 2027-01-31T00:00:00Z",
    "Expected `array": "write a list: [one, two]",
    "Expected `str": 'put it in quotes, as in "403"',
    "Expected `object": "write fields with values: {field: value}",
    "Expected `int": "write a whole number",
    "Expected `bool": "write true or false",
    "missing required field": "add it",
}
"""What to do about an error of the decoder, by what it says."""
_PLAIN_TAGS: Final = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_API = f"{SigmaRule.kind_info.group}/{SigmaRule.kind_info.version}"
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_PATH_IN_ERROR = re.compile(r"`\$\.?([^`]*)`|unknown field (\S+)")

Lines = Mapping[str, int]
"""From a path inside a document (`spec.match.verb[0]`) to its line, counted from 1."""


@dataclass(frozen=True, slots=True)
class RuleInFile:
    """A rule and where it stands."""

    rule: SigmaRule
    path: str
    lines: Lines = field(repr=False)

    def place(self, at: str = "") -> str:
        """Return `file:line` of a path inside the rule, or of what is nearest to it."""
        return f"{self.path}:{_line(self.lines, at)}"

    def located(self, error: RuleError) -> RuleError:
        """Return the error with file and line before the field."""
        name = error.where.rpartition(": ")[2]
        return RuleError(
            error.reason, error.what, where=f"{self.place(name)}: {name}".removesuffix(": "), fix=error.fix
        )


@dataclass(slots=True)
class Loaded:
    """What some paths hold: the rules that can be read, in order, and why others cannot."""

    rules: list[RuleInFile] = field(default_factory=list)
    errors: list[PermanentError] = field(default_factory=list)


def load(paths: Iterable[Path]) -> Loaded:
    """Read all rules below these files and directories. Raises `PermanentError` for a path that is not there."""
    loaded = Loaded()
    places: dict[str, RuleInFile] = {}
    for path in _files(paths):
        try:
            for found in _rules(path, loaded.errors):
                name = found.rule.metadata.name
                if name in places:
                    what = f"a rule called {name} stands at {places[name].place()} too"
                    loaded.errors.append(PermanentError(what, where=found.place("metadata.name"), fix="rename one"))
                else:
                    places[name] = found
                    loaded.rules.append(found)
        except PermanentError as error:
            loaded.errors.append(error)
    return loaded


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    count = 0
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file() and not _hidden(p, path))
            if not inside:
                raise PermanentError(
                    "no rule in this directory", where=str(path), fix="rules end in .yaml, .yml or .json"
                )
        elif path.exists():
            inside = [path]
        else:
            raise PermanentError("there is no such file or directory", where=str(path), fix="check the path")
        count += len(inside)
        if count > MAX_FILES:
            raise PermanentError(f"more than {MAX_FILES} files", where=str(path), fix="name a smaller directory")
        yield from inside


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _rules(path: Path, errors: list[PermanentError]) -> Iterator[RuleInFile]:
    text = _read(path)
    documents = list(_json(path, text) if _is_json(path, text) else _yaml(path, text))
    upstream = [document for document, _ in documents if _is_upstream(document)]
    if upstream and len(upstream) < len(documents):
        raise PermanentError(
            "SigmaRule objects and upstream Sigma rules in one file", where=str(path), fix="put them into two files"
        )
    if upstream:
        yield from _imported(path, text, [lines for _, lines in documents], errors)
        return
    for document, lines in documents:
        yield from _native(path, document, lines, "", errors)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PermanentError(f"cannot be read: {error.strerror}", where=str(path), fix="check its rights") from error
    if len(raw) > MAX_FILE_BYTES:
        raise PermanentError(f"larger than {MAX_FILE_BYTES >> 20} MiB", where=str(path), fix="split it")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PermanentError("not UTF-8", where=f"{path}:{line}", fix="save it as UTF-8") from error


def _is_json(path: Path, text: str) -> bool:
    return path.suffix == ".json" or text.lstrip()[:2] in ('{"', "[{")


def _is_upstream(document: object) -> bool:
    return (
        isinstance(document, dict)
        and "apiVersion" not in document
        and bool({"detection", "logsource", "correlation", "filter", "action"} & document.keys())
    )


def _imported(path: Path, text: str, lines: Sequence[Lines], errors: list[PermanentError]) -> Iterator[RuleInFile]:
    """Yield a rule for each upstream document; one that cannot serve is put among the errors, the others still come."""
    from ugallu_audit_detection.sigma.imported import read_sigma

    read = read_sigma(text, where=str(path))
    errors += read.refused
    for rule in read.rules:
        found = SigmaRule(metadata=Metadata(name=rule.name, annotations=rule.annotations), spec=rule.spec)
        yield RuleInFile(found, str(path), lines[rule.place] if rule.place < len(lines) else {})


def _native(
    path: Path, document: object, lines: Lines, below: str, errors: list[PermanentError]
) -> Iterator[RuleInFile]:
    """Yield the rules in one document; one that cannot be read is put among the errors, the others still come."""
    if isinstance(document, list) or (isinstance(document, dict) and document.get("kind") == "List"):
        items = document if isinstance(document, list) else document.get("items")
        prefix = below if isinstance(document, list) else f"{below}items"
        for index, item in enumerate(items if isinstance(items, list) else []):
            yield from _native(path, item, lines, f"{prefix}[{index}].", errors)
        return
    own = {key.removeprefix(below): line for key, line in lines.items() if key.startswith(below)} if below else lines
    try:
        yield RuleInFile(_rule(path, document, own), str(path), own)
    except PermanentError as error:
        errors.append(error)


def _rule(path: Path, document: object, lines: Lines) -> SigmaRule:
    def refuse(what: str, at: str, fix: str) -> PermanentError:
        return PermanentError(what, where=f"{path}:{_line(lines, at)}", fix=fix)

    if not isinstance(document, dict):
        raise refuse("no object", "", "a rule has apiVersion, kind, metadata and spec")
    kind = document.get("kind")
    if document.get("apiVersion") != _API or kind != "SigmaRule":
        what = f"kind {kind!r} of {document.get('apiVersion')!r} is no rule"
        raise refuse(what, "kind", f"write apiVersion: {_API} and kind: SigmaRule")
    try:
        rule = decode_strict(SigmaRule, document)
    except PermanentError as error:
        found = _PATH_IN_ERROR.search(error.what)
        at = (found.group(1) or found.group(2) or "") if found else ""
        raise refuse(error.what.replace(" - at `$`", ""), at, _hint(error)) from error
    name = rule.metadata.name
    if not _NAME.fullmatch(name):
        what = f"{name!r} is no name" if name else "the rule has no name"
        raise refuse(what, "metadata.name", "lower case letters, digits, - and .")
    return SigmaRule(
        metadata=Metadata(name=name, labels=rule.metadata.labels, annotations=rule.metadata.annotations),
        spec=rule.spec,
    )


def _hint(error: PermanentError) -> str:
    if "Invalid enum value" in error.what:
        field = error.what.rstrip("`").rpartition(".")[2]
        if field in _CHOICES:
            return f"one of {', '.join(_CHOICES[field])}"
    return next((hint for sign, hint in _HINTS.items() if sign in error.what), error.fix)


def _line(lines: Lines, at: str) -> int:
    """The line of a path, or of the innermost thing around it that has one."""
    while at and at not in lines:
        at = at.rpartition("[")[0] if at.endswith("]") else at.rpartition(".")[0]
    return lines.get(at, 1)


# JSON


def _json(path: Path, text: str) -> Iterator[tuple[Any, Lines]]:
    try:
        yield msgspec.json.decode(text), {}
    except (msgspec.DecodeError, RecursionError) as error:
        at = re.search(r"byte (\d+)", str(error))
        line = text.encode()[: int(at.group(1))].count(b"\n") + 1 if at else 1
        raise PermanentError(f"no JSON: {error}", where=f"{path}:{line}", fix="check it with a JSON linter") from error


def documents(path: Path) -> Iterator[tuple[Any, Lines]]:
    """Yield the YAML or JSON documents in a file, each with the line of every value in it.

    Raises `PermanentError` with file and line for what is none, or would cost too much to read.
    """
    text = _read(path)
    yield from (_json if _is_json(path, text) else _yaml)(path, text)


# YAML


def _yaml(path: Path, text: str) -> Iterator[tuple[Any, Lines]]:
    try:
        _measure(path, text)
        loader = yaml.CSafeLoader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                if node is not None:
                    document = _Document(path, loader)
                    value = document.value(node, "")
                    if value is not None:
                        yield value, document.lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        said = " ".join(filter(None, (error.context, error.problem)))
        raise PermanentError(f"no YAML: {said}", where=f"{path}:{line}", fix="mend the YAML") from error
    except (yaml.YAMLError, ValueError) as error:
        raise PermanentError(f"no YAML: {error}", where=str(path), fix="mend the YAML") from error


def _measure(path: Path, text: str) -> None:
    """Refuse what would cost too much, event by event, before anything recursive looks at it."""
    depth = aliases = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        where = f"{path}:{event.start_mark.line + 1}" if event.start_mark else str(path)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise PermanentError(f"nested deeper than {MAX_DEPTH}", where=where, fix="no rule needs that")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > MAX_ALIASES:
                raise PermanentError(f"more than {MAX_ALIASES} aliases", where=where, fix="write the values out")
        if nodes >= MAX_NODES:
            raise PermanentError(f"more than {MAX_NODES} values", where=where, fix="split it")


class _Document:
    """One YAML document on its way to plain values, with the line of each."""

    def __init__(self, path: Path, loader: yaml.CSafeLoader) -> None:
        self.lines: dict[str, int] = {}
        self._path = path
        self._loader = loader
        self._left = MAX_NODES

    def value(self, node: yaml.Node, at: str, depth: int = 0) -> Any:  # noqa: ANN401 - parsed YAML
        line = node.start_mark.line + 1
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise PermanentError(
                "its aliases unfold to too much", where=f"{self._path}:{line}", fix="write the values out"
            )
        self.lines.setdefault(at, line)
        if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
            raise PermanentError(f"the tag {node.tag} is not read", where=f"{self._path}:{line}", fix="leave it out")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{at}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, at: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise PermanentError("merge keys (<<) are not read", where=f"{self._path}:{line}", fix="write it out")
            if not isinstance(key_node, yaml.ScalarNode):
                raise PermanentError("a key that is no text", where=f"{self._path}:{line}", fix="quote it")
            key = key_node.value
            if key in found:
                raise PermanentError(f"the key {key!r} stands twice", where=f"{self._path}:{line}", fix="remove one")
            inner = f"{at}.{key}" if at else key
            self.lines.setdefault(inner, line)
            found[key] = self.value(value_node, inner, depth + 1)
        return found


def objects(paths: Sequence[Path]) -> list[SigmaRule]:
    """Return the rules in these files. Raises `PermanentError`, the first of several, for one that cannot be read."""
    loaded = load(paths)
    if loaded.errors:
        first, more = loaded.errors[0], len(loaded.errors) - 1
        what = f"{first.what} (and {more} more errors)" if more else first.what
        raise PermanentError(what, where=first.where, fix=first.fix)
    return [found.rule for found in loaded.rules]
