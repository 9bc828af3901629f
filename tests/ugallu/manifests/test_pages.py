"""Pages made from the code: what a reader looks for is there."""

import re

import pytest
import yaml

from ugallu.api.policies import Policy, PolicyValues, policies
from ugallu.manifests.pages import pages

POLICIES = policies()
PAGE = pages()["policies.md"]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_whoever_is_refused_finds_the_words_under_the_policy(policy: Policy) -> None:
    """Each message stands once in the section of its policy, and the table leads there."""
    section = PAGE.partition(f"\n## {policy.name}\n")[2].partition("\n## ")[0]
    assert policy.about in section
    said = [line[3:-1] for line in section.splitlines() if line.startswith("- ")]
    assert said == list(dict.fromkeys(validation.message for validation in policy.validations))
    assert f"| [{policy.name}](#{policy.name.replace('.', '')}) |" in PAGE


def test_there_are_sixteen() -> None:
    """The eighth, in two documents, counts once."""
    numbers = re.findall(r"^\| (\w+) \| \[ugallu", PAGE, re.MULTILINE)
    assert numbers == [*map(str, range(1, 9)), "8b", *map(str, range(9, 17))]


def test_every_value_has_a_row_with_its_default_and_its_policies() -> None:
    """A value that the code knows can be found and changed; and where an overlay changes it, that is said."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert len(rows) == len(PolicyValues.__struct_fields__)
    for name, row in rows.items():
        having = {policy.name for policy in POLICIES if name in {variable.name for variable in policy.variables}}
        assert having == set(re.findall(r"`(ugallu\.[a-z-]+)`", row)), name
    assert "`false`; `hardened`: `true`" in rows["deleteProtection"]
    assert "`local`" in rows["attestorSA"]


def test_the_patch_changes_a_variable_that_exists() -> None:
    """What a reader copies names a policy and a variable of it, and so does the table for every value."""
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (patch,) = yaml.safe_load(example)["patches"]
    variables = {policy.name: [variable.name for variable in policy.variables] for policy in POLICIES}
    asked, changed = yaml.safe_load(patch["patch"])
    number = variables[patch["target"]["name"]].index(asked["value"])
    assert (asked["path"], changed["path"]) == (
        f"/spec/variables/{number}/name",
        f"/spec/variables/{number}/expression",
    )
    for name, row in re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE):
        for policy, place in re.findall(r"`(ugallu\.[a-z-]+)` (\d+)", row):
            assert variables[policy][int(place)] == name
