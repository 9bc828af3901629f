"""Patterns match what a plain reading of them matches, however many of them share a test."""

from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu_audit_detection.sigma.pattern import MAX_STARS, Pattern, Wild, any_pattern, glob

BOUNDED = settings(max_examples=200, deadline=None)
texts = st.text(alphabet="aab é\0\n", max_size=12)
native = st.text(alphabet="abé*?*", max_size=8).filter(lambda text: text.count("*") <= MAX_STARS)
starts = st.sampled_from(["", "*a*", "b*a*", "*ab*", "a?*b*"])


def matches(pattern: str, text: str) -> bool:
    """Read a native glob letter by letter, over bytes."""
    wanted, given_ = pattern.encode(), text.encode()

    @lru_cache(None)
    def at(i: int, j: int) -> bool:
        if i == len(wanted):
            return j == len(given_)
        if wanted[i : i + 1] == b"*":
            return any(at(i + 1, k) for k in range(j, len(given_) + 1))
        return j < len(given_) and wanted[i] in (ord("?"), given_[j]) and at(i + 1, j + 1)

    return at(0, 0)


@BOUNDED
@given(start=starts, rests=st.lists(native, min_size=1, max_size=6), others=st.lists(native, max_size=2), text=texts)
def test_patterns_that_begin_alike_match_as_each_does_alone(
    start: str, rests: list[str], others: list[str], text: str
) -> None:
    """What they share is searched once, and leaves to each the same rest."""
    wanted = [*(start + rest for rest in rests), *others]
    wanted = [pattern for pattern in wanted if pattern.count("*") <= MAX_STARS]
    test = any_pattern([glob(pattern, where="test") for pattern in wanted])
    assert test(text) is any(matches(pattern, text) for pattern in wanted)


def test_two_runs_in_a_row_are_one() -> None:
    """Whoever makes patterns need not join them."""
    any_ = Wild.ANY
    test = any_pattern(
        [Pattern(("a", any_, any_, "b")), Pattern(("a", any_, any_, "c")), Pattern((any_, any_, "d", any_, "e"))]
    )
    assert [text for text in ("axb", "ac", "xab", "xdxe", "dx") if test(text)] == ["axb", "ac", "xdxe"]


def test_more_words_than_an_automaton_takes_are_looked_for_one_by_one() -> None:
    """A rule with a list of long words compiles, and finds the last of them."""
    words = [f"{number}{'w' * 500}" for number in range(4000)]
    test = any_pattern([Pattern((Wild.ANY, word, Wild.ANY)) for word in words])
    assert test(f"a {words[-1]} b")
    assert not test("w" * 499)
