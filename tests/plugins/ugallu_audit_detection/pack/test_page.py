"""The page of the default rules: each rule is there, and what a reader copies is true."""

import re

import yaml

from ugallu_audit_detection import pack
from ugallu_audit_detection.operator import AuditDetection

RULES = {rule.metadata.name: rule for rule in pack.rules()}
PAGE = AuditDetection.pages()["rules/pack.md"]


def test_every_rule_has_its_section() -> None:
    """With its sentence, what it needs, and all that its annotations know; the table leads there."""
    for name, rule in RULES.items():
        section = PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert rule.spec.description in section
        assert "| Needs |" in section
        assert all(rule.metadata.annotations[key] in section for key in pack.KNOWLEDGE)
        assert f"[{name}](#{name})" in PAGE


def test_the_patches_fit_the_rules_that_they_name() -> None:
    """Each replaces what its rule has, and adds what its rule has not."""
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    patches = yaml.safe_load(example)["patches"]
    assert len(patches) == 3
    for patch in patches:
        spec = RULES[patch["target"]["name"]].spec
        (operation,) = yaml.safe_load(patch["patch"])
        there = {"/spec/enabled": True, "/spec/emit/severity": True, "/spec/suppress": spec.suppress is not None}
        assert there[operation["path"]] is (operation["op"] == "replace"), patch


def test_what_it_says_of_old_versions_names_this_one() -> None:
    """The selector finds rules of every version but the one that is installed."""
    assert f"{pack.LABEL_VERSION}!={pack.VERSION}'" in PAGE
