"""Rules in files: every form is read, every mistake is named with its line, nothing blows up."""

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugallu.api.meta import encode
from ugallu.errors import PermanentError
from ugallu.testing.rules import sigma_rule
from ugallu_audit_detection import files
from ugallu_audit_detection.files import load, objects

RULE = """\
apiVersion: security.ugallu.io/v1alpha1
kind: SigmaRule
metadata:
  name: {name}
spec:
  match:
    verb: [get]
  emit:
    securityEventType: KubernetesAPICall
    severity: low
"""
UPSTREAM = """\
title: Secrets Enumeration
id: eeb3e9e1-b685-44e4-9232-6bb701f925b5
status: test
level: low
logsource:
  product: kubernetes
  service: audit
detection:
  selection:
    verb: list
    objectRef.resource: secrets
  condition: selection
"""


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(*paths: Path) -> list[str]:
    loaded = load(paths)
    assert loaded.errors == []
    return [found.rule.metadata.name for found in loaded.rules]


def error(path: Path) -> PermanentError:
    (found,) = load([path]).errors
    return found


def test_a_directory_is_read_in_order(tmp_path: Path) -> None:
    """Below it too, sorted by path; hidden files and other suffixes are left alone."""
    write(tmp_path, "b.yaml", RULE.format(name="b"))
    write(tmp_path, "a/z.yml", RULE.format(name="z"))
    write(tmp_path, ".git/c.yaml", "::::")
    write(tmp_path, "README.md", "::::")
    assert names(tmp_path) == ["z", "b"]


def test_many_documents_and_lists(tmp_path: Path) -> None:
    """A YAML stream, a kubectl List, a JSON list, one JSON object."""
    assert names(write(tmp_path, "s.yaml", f"---\n{RULE.format(name='a')}---\n---\n{RULE.format(name='b')}")) == [
        "a",
        "b",
    ]
    items = [json.loads(encode(sigma_rule(name))) for name in ("c", "d")]
    assert names(write(tmp_path, "list.json", json.dumps(items))) == ["c", "d"]
    assert names(write(tmp_path, "kubectl.json", json.dumps({"kind": "List", "items": items}))) == ["c", "d"]
    assert names(write(tmp_path, "one.json", json.dumps(items[0]))) == ["c"]


def test_an_upstream_rule_is_imported(tmp_path: Path) -> None:
    """As SigmaHQ publishes it."""
    path = write(tmp_path, "secrets.yml", UPSTREAM)
    (rule,) = objects([path])
    assert getattr(rule.metadata, "name") == "sigma-eeb3e9e1-b685-44e4-9232-6bb701f925b5"  # noqa: B009


def test_what_the_cluster_said_of_a_rule_is_left_behind(tmp_path: Path) -> None:
    """`kubectl get -o yaml` brings uid and status; a file declares neither."""
    text = RULE.format(name="a").replace("  name: a", "  name: a\n  uid: u\n  resourceVersion: '7'\n  labels: {x: y}")
    (rule,) = objects([write(tmp_path, "a.yaml", text + "status:\n  matchCount: 7\n")])
    assert (rule.metadata.uid, rule.metadata.resource_version, rule.metadata.labels) == ("", "", {"x": "y"})
    assert rule.status.match_count == 0


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("severity: low", "severity: bad"), 10, "bad"),
        (("    verb: [get]", "    verbs: [get]"), 7, "unknown field spec.match.verbs"),
        (("    verb: [get]", "    verb: get"), 7, "Expected `array"),
        (("  name: a", "  name: A_b"), 4, "is no name"),
        (("  name: a", "  labels: {}"), 3, "no name"),
        (("kind: SigmaRule", "kind: ConfigMap"), 2, "is no rule"),
        (("    verb: [get]", "    verb: [get\n"), 9, "no YAML"),
        (("  emit:", "  match: {}\n  emit:"), 8, "'match' stands twice"),
        (("spec:", "spec: &a\n  <<: *a"), 6, "merge keys"),
        (("    verb: [get]", "    verb: !!python/object/apply:os.system [ls]"), 7, "is not read"),
        (("low", "!!python/object/apply:os.system ls"), 10, "no YAML"),
        (("    severity: low", "    severity: low\n    signals: {a: 1}"), 11, "Expected `str`"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, change: tuple[str, str], line: int, said: str) -> None:
    """file:line, what is wrong, and what to do."""
    path = write(tmp_path, "a.yaml", RULE.format(name="a").replace(*change))
    found = error(path)
    assert found.where == f"{path}:{line}"
    assert said in found.what
    assert found.fix


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ("verb: get", "write a list"),
        ("responseCode: [403]", "quotes"),
        ("objectGlob: [{jsonPath: $.a, patterns: [null]}]", "quotes"),
        ("not: [{verb: [get]}]", "fields with values"),
        ("decision: deny", "one of allow, forbid"),
        ("dryRun: 1", "true or false"),
        ("objectGlob: [{patterns: [a]}]", "add it"),
        ("verbs: [get]", "spelling"),
    ],
)
def test_every_mistake_comes_with_what_to_write(tmp_path: Path, wrong: str, fix: str) -> None:
    """Field and line say where, the fix says what, for each sort of wrong value."""
    found = error(write(tmp_path, "a.yaml", RULE.format(name="a").replace("verb: [get]", wrong)))
    assert found.where.endswith("a.yaml:7")
    assert wrong.partition(":")[0] in found.what
    assert fix in found.fix


def test_a_wrong_choice_names_the_right_ones(tmp_path: Path) -> None:
    """Severities and classes are few: all are told."""
    for right, wrong, told in (("low", "Low", "critical, high"), ("low", "low\n    class: detection", "Detection")):
        text = RULE.format(name="a").replace(f"severity: {right}", f"severity: {wrong}")
        assert told in error(write(tmp_path, "a.yaml", text)).fix


def test_one_bad_rule_does_not_hide_the_others(tmp_path: Path) -> None:
    """All that can be read is, and every mistake is reported."""
    write(tmp_path, "a.yaml", RULE.format(name="a") + "---\n" + RULE.format(name="b").replace("low", "bad"))
    write(tmp_path, "c.yaml", "x: [")
    write(tmp_path, "d.yaml", RULE.format(name="d"))
    loaded = load([tmp_path])
    assert [found.rule.metadata.name for found in loaded.rules] == ["a", "d"]
    assert len(loaded.errors) == 2
    with pytest.raises(PermanentError, match="1 more error"):
        objects([tmp_path])


def test_two_rules_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    """Which would win? The error names both places."""
    first = write(tmp_path, "a.yaml", RULE.format(name="a"))
    write(tmp_path, "b.yaml", RULE.format(name="a"))
    (found,) = load([tmp_path]).errors
    assert str(first) in found.what
    assert found.where.endswith("b.yaml:4")


def test_native_and_upstream_do_not_mix(tmp_path: Path) -> None:
    """In one file."""
    assert "one file" in error(write(tmp_path, "a.yaml", f"{RULE.format(name='a')}---\n{UPSTREAM}")).what


def test_json_mistakes_have_lines_too(tmp_path: Path) -> None:
    """A byte offset helps nobody."""
    assert error(write(tmp_path, "a.json", '{"a": 1,\n"b": x}')).where.endswith("a.json:2")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_path_without_rules_is_wrong_use(tmp_path: Path, name: str) -> None:
    """Nobody wants to hear that zero of zero tests pass."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(PermanentError):
        load([tmp_path / name])


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 have a line as well."""
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: b\nc: \xff\n")
    assert error(path).where == f"{path}:2"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "aliases that unfold to a billion": BOMB,
    "a thousand aliases": "a: &a 1\nb: [" + "*a, " * 1000 + "]",
    "an alias of itself": "a: &a [*a]",
    "deep flow": "[" * 100_000,
    "deep maps": "{a: " * 100_000,
    "deep blocks": "".join(" " * index + "a:\n" for index in range(2000)),
    "a huge number": "a: " + "9" * 10_000,
    "half a million values": "- 1\n" * 600_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_bomb_does_not_go_off(tmp_path: Path, text: str) -> None:
    """A few kilobytes of YAML cost neither gigabytes nor minutes, nor the process."""
    path = write(tmp_path, "a.yaml", text)
    began = time.perf_counter()
    assert load([path]).errors
    assert time.perf_counter() - began < 20


def test_deep_json_is_an_error(tmp_path: Path) -> None:
    """Not a crash."""
    assert error(write(tmp_path, "a.json", "[" * 100_000)).what.startswith("no JSON")


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is asked before the content."""
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    assert "larger than" in error(write(tmp_path, "a.yaml", RULE.format(name="a"))).what


pieces = st.sampled_from(
    [
        "a",
        ":",
        " ",
        "\n",
        "-",
        "[",
        "]",
        "{",
        "}",
        "&a",
        "*a",
        "!",
        "|",
        ">",
        "'",
        '"',
        "#",
        "---\n",
        "\t",
        "spec",
        "kind: List\nitems:",
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=30).map("".join) | st.text(max_size=60), st.sampled_from(["a.yaml", "a.json"]))
def test_no_text_raises_anything_else(tmp_path: Path, text: str, name: str) -> None:
    """Whatever stands in a file, there are rules or errors that say where."""
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for found in load([path]).errors:
        assert found.where.startswith(str(path))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["verb", "match", "emit", "spec", "items"]), inner, max_size=3)
        ),
    )
)
def test_no_shape_of_a_rule_raises_anything_else(tmp_path: Path, spec: Any) -> None:
    """A rule of any shape is a rule or an error."""
    document = {
        "apiVersion": "security.ugallu.io/v1alpha1",
        "kind": "SigmaRule",
        "metadata": {"name": "a"},
        "spec": spec,
    }
    path = tmp_path / "a.json"
    path.write_bytes(msgspec.json.encode(document))
    loaded = load([path])
    assert len(loaded.rules) + len(loaded.errors) == 1


def test_upstream_documents_of_one_file_stay_linked(tmp_path: Path) -> None:
    """Each its own rule at its own line; one that cannot serve is an error, and the others still come."""
    other = UPSTREAM.replace("eeb3e9e1", "00000000").replace("kubernetes", "linux")
    correlation = (
        "title: Many\ncorrelation: {type: event_count, rules: [eeb3e9e1-b685-44e4-9232-6bb701f925b5], timespan: 1h,"
        " condition: {gte: 5}}\n"
    )
    path = write(tmp_path, "all.yml", f"{UPSTREAM}---\n{other}---\n{correlation}")
    loaded = load([path])
    assert [found.place() for found in loaded.rules] == [f"{path}:1", f"{path}:27"]
    assert [found.rule.metadata.name for found in loaded.rules][1] == "sigma-many"
    (refused,) = loaded.errors
    assert "linux" in refused.what
    assert "document 2" in refused.where


def test_a_template_for_all_rules_of_a_file(tmp_path: Path) -> None:
    """`action: global`, as older upstream files have it."""
    path = write(tmp_path, "g.yml", "action: global\nauthor: A\n---\n" + UPSTREAM)
    (found,) = load([path]).rules
    assert found.rule.metadata.annotations["ugallu.io/sigma-author"] == "A"
