"""The page. Audit data is hostile: every text goes through `markup.tag`, and the policy in the head forbids scripts."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ugallu.api.catalog import Severity
from ugallu.cli.attack import Technique
from ugallu.cli.markup import Html, join, tag, void
from ugallu.cli.report.story import Check, Entry, Story
from ugallu.cli.report.timeline import draw, span

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
SIGNALS_FIRST = ("verb", "request.uri", "response.code", "source.ip", "user.agent", "user.groups")
ACTORS = 8
SIGNALS_SHOWN_ABOVE = ("rule", "user", "impersonated", "attack.technique")


def render(story: Story) -> str:
    """Return the whole document; the same story gives the same bytes."""
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=POLICY),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        void("meta", name="referrer", content="no-referrer"),
        tag("title", f"{story.title} · ugallu"),
        tag("style", Html(Path(__file__).with_name("style.css").read_text("utf-8"))),
    )
    body = tag("body", tag("main", _head(story), _cards(story), _timeline(story), _events(story), _books(story),
                           _prove(story)), _foot(story))  # fmt: skip
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _head(story: Story) -> Html:
    entries = story.by_time
    when = ""
    if entries:
        first, last = entries[0].at, entries[-1].at
        when = f"{first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S} UTC ({span((last - first).total_seconds())})"
    facts = [
        text for text in (", ".join(story.inputs), f"cluster {story.cluster}" if story.cluster else "", when) if text
    ]
    return tag(
        "header", tag("p", "ugallu", class_="mark"), tag("h1", story.title), tag("p", " · ".join(facts), class_="facts")
    )


def _cards(story: Story) -> Html:
    grades = Counter(entry.severity for entry in story.entries)
    sealed = sum(entry.sealed for entry in story.entries)
    verified = sum(entry.verified for entry in story.entries)
    failed = sum(1 for entry in story.entries if entry.checks and not entry.verified)
    cards = [
        _card(f"{story.ledger.get('parsed', 0):,}", "audit events read", _plural(story.rules, "rule")),
        _card(f"{len(story.entries):,}", "security events", _grades(grades)),
        _card(
            f"{sealed:,}",
            "sealed",
            "signed, logged, archived, read back",
            "good" if sealed == len(story.entries) else "warn",
        ),
    ]
    if verified or failed:
        note = f"{failed} did not hold" if failed else "signature, log and archive checked again"
        cards.append(_card(f"{verified:,}", "verified", note, "bad" if failed else "good"))
    return tag("section", cards, class_="cards")


def _card(number: str, word: str, note: str | Html, tone: str = "") -> Html:
    return tag(
        "div",
        tag("p", number, class_="number"),
        tag("p", word, class_="word"),
        tag("p", note, class_="note"),
        class_=f"card {tone}".strip(),
    )


def _grades(grades: Counter[Severity]) -> Html:
    return join(
        tag("span", f"{grades[grade]} {grade.value}", class_=f"grade {grade.value}")
        for grade in Severity
        if grades[grade]
    )


def _timeline(story: Story) -> Html | None:
    if not story.entries:
        return tag("section", tag("h2", "Nothing was found"), tag("p", "No rule fired on this input.", class_="lead"))
    seen = Counter(technique for entry in story.by_time for technique in entry.techniques)
    chips = join(_chip(technique, count) for technique, count in seen.items())
    return tag(
        "section",
        tag("h2", "What happened"),
        tag("div", draw(story.by_time), class_="wide"),
        _actors(story),
        tag("p", chips, class_="chips") if seen else None,
    )


def _actors(story: Story) -> Html | None:
    """Say who did it, the gravest first: the question a reader has next."""
    if not story.actors:
        return None
    rows = [
        tag("tr", tag("th", actor), tag("td", _grades(Counter(entry.severity for entry in deeds)), class_="grades"))
        for actor, deeds in story.actors[:ACTORS]
    ]
    rest = len(story.actors) - ACTORS
    more = tag("p", f"and {rest:,} more", class_="lead") if rest > 0 else None
    return tag("div", tag("h3", "By whom"), tag("table", rows), more, class_="actors")


def _chip(technique: Technique, count: int = 0) -> Html:
    times = f" ({count})" if count > 1 else ""
    return tag("span", tag("b", technique.id), f" {technique.name}{times}", class_="chip", title=technique.tactic)


def _mark(technique: Technique) -> Html:
    return tag("span", tag("b", technique.id), class_="chip", title=f"{technique.name}, {technique.tactic}")


def _events(story: Story) -> Html | None:
    if not story.entries:
        return None
    rows = [_group(alike) if len(alike) > 2 else join(map(_row, alike)) for alike in story.groups]
    return tag(
        "section", tag("h2", "Events"), tag("p", "Open a line for its signals and its proof.", class_="lead"), rows
    )


def _group(alike: Sequence[Entry]) -> Html:
    first = alike[0]
    line = _line(first, f"{first.subject} and {len(alike) - 1:,} more", times=f" x {len(alike):,}", state=_worst(alike))
    inner = tag("div", map(_row, alike), class_="inner")
    return tag("details", line, inner, class_=f"event group {first.severity.value}")


def _worst(alike: Sequence[Entry]) -> Entry:
    return min(alike, key=lambda entry: (entry.verified, entry.sealed))


def _row(entry: Entry) -> Html:
    line = _line(entry, entry.subject, state=entry)
    told = tag("p", entry.about, class_="about") if entry.about else None
    columns = tag("div", _signals(entry), _proof(entry), class_="columns")
    return tag("details", line, told, columns, id=entry.event.metadata.name, class_=f"event {entry.severity.value}")


def _line(entry: Entry, subject: str, *, state: Entry, times: str = "") -> Html:
    spec = entry.event.spec
    return tag(
        "summary",
        tag("time", f"{entry.at:%H:%M:%S}", datetime=entry.at.isoformat()),
        tag("span", entry.severity.value, class_=f"pill {entry.severity.value}"),
        tag(
            "span",
            tag("span", tag("b", spec.type, times), f" {_first_sentence(entry.about)}", class_="title"),
            tag("span", entry.actor or spec.source.name, " → ", subject, class_="who"),
            class_="what",
        ),
        tag("span", map(_mark, entry.techniques[:2]), class_="techniques"),
        _state(state),
    )


def _state(entry: Entry) -> Html:
    if entry.checks and not entry.verified:
        return tag("span", "does not verify", class_="state bad")
    if entry.verified:
        return tag("span", "✓ verified", class_="state good")
    if entry.sealed:
        return tag("span", "sealed", class_="state good")
    phase = entry.bundle.status.phase if entry.bundle else None
    return tag("span", phase.value.lower() if phase else "not sealed", class_="state")


def _signals(entry: Entry) -> Html:
    signals = entry.event.spec.signals
    order = [name for name in SIGNALS_FIRST if name in signals]
    order += sorted(name for name in signals if name not in SIGNALS_FIRST and name not in SIGNALS_SHOWN_ABOVE)
    pairs = [("rule", entry.rule), *((name, signals[name]) for name in order)]
    return tag("div", tag("h3", "Signals"), _table(pairs))


def _proof(entry: Entry) -> Html:
    pairs = [("event", entry.event.metadata.name), ("correlation", entry.event.spec.correlation_id)]
    if entry.bundle is not None:
        status = entry.bundle.status
        pairs += [("statement", status.statement_digest)]
        if status.signature is not None:
            pairs += [
                ("signed", f"{status.signature.mode.value}, key {status.signature.key_id}".removesuffix(", key "))
            ]
        if status.rekor_entry is not None:
            log = status.rekor_entry
            size = f" of {log.inclusion_proof.tree_size}" if log.inclusion_proof else ""
            pairs += [("log entry", f"{log.log_index}{size}")]
        if status.subject_ref is not None:
            pairs += [("archived", f"{status.subject_ref.sha256}, {status.subject_ref.size:,} bytes")]
        if status.sealed_at is not None:
            pairs += [("sealed", f"{status.sealed_at:%Y-%m-%d %H:%M:%S} UTC")]
    return tag("div", tag("h3", "Proof"), _table(pairs), _checks(entry.checks))


def _checks(checks: Sequence[Check]) -> Html | None:
    if not checks:
        return None
    return tag("ul", [_check(check) for check in checks], class_="checks")


def _check(check: Check) -> Html:
    mark = tag("span", "✓" if check.ok else "✗", class_="good" if check.ok else "bad")
    return tag("li", mark, f" {check.name}", tag("span", f" {check.detail}", class_="detail") if check.detail else None)


def _table(pairs: Sequence[tuple[str, str]]) -> Html:
    return tag("table", [tag("tr", tag("th", name), tag("td", value)) for name, value in pairs if value])


def _books(story: Story) -> Html | None:
    if not story.ledger:
        return None
    pairs = [(name.replace("_", " "), f"{count:,}") for name, count in story.ledger.items()]
    return tag(
        "section",
        tag("h2", "The books"),
        tag("p", "Every line of the input and every match is accounted for.", class_="lead"),
        tag("div", tag("div", _table(pairs), class_="ledger"), _checks(story.equations), class_="columns"),
    )


def _prove(story: Story) -> Html | None:
    if not story.commands:
        return None
    words = "Stock cosign checks an event without ugallu and without a network:"
    code = tag("pre", "\n".join(story.commands))
    return tag("section", tag("h2", "Check it yourself"), tag("p", words, class_="lead"), code)


def _foot(story: Story) -> Html:
    made = f"ugallu {story.version} · written {story.made_at:%Y-%m-%d %H:%M} UTC"
    return tag("footer", f"{made} · this page loads nothing and runs nothing")


def _first_sentence(text: str) -> str:
    return text.partition("\n")[0].partition(". ")[0].rstrip(".")


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
