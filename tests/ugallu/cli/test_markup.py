"""Text stays text."""

from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.cli.markup import Html, join, tag, void


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_children_nest_and_attributes_read_as_html() -> None:
    """Elements inside elements are kept, `class_` and `http_equiv` become what HTML calls them, None is left out."""
    made = tag("p", "a", tag("b", "c"), [tag("i", "d")], None, class_="x", http_equiv="y", title=None)
    assert made == '<p class="x" http-equiv="y">a<b>c</b><i>d</i></p>'
    assert void("line", x1="0") == '<line x1="0"/>'


@settings(max_examples=200)
@given(st.text(), st.text())
def test_no_text_becomes_markup(text: str, value: str) -> None:
    """Whatever a text or an attribute holds, a browser sees one element and no other."""
    reader = Reader()
    reader.feed(tag("p", text, title=value))
    reader.close()
    assert [name for name, _ in reader.tags] == ["p"]
    assert len(reader.tags[0][1]) == 1


def test_hidden_characters_are_shown() -> None:
    """Direction overrides and control characters, which could make text read as something else, become codes."""
    assert join("a\u202eb\x07") == "a\\u202eb\\u0007"
    assert isinstance(join("x"), Html)
