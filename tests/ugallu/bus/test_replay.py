"""What can be had again, and what goes first when there is no room."""

from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.detection import BusBodies
from ugallu.bus.events import Shape
from ugallu.bus.replay import Replay

SHAPE = Shape(BusBodies.REQUEST, 100)
OTHER = Shape(BusBodies.ALL, 100)


def parts(size: int = 100) -> dict[Shape, bytes]:
    return {SHAPE: b"x" * size}


def test_events_are_found_by_their_sequence() -> None:
    """In the first shape that was asked for; what nobody wanted is not there."""
    replay = Replay()
    assert [replay.put(parts(), 0.0), replay.put(None, 0.0), replay.put({OTHER: b"o"}, 0.0)] == [1, 2, 3]
    assert replay.get(1, (SHAPE,)) == b"x" * 100
    assert replay.get(2, (SHAPE,)) is None
    assert replay.get(3, (SHAPE,)) is None, "another consumer's shape may show more"
    assert replay.get(3, (SHAPE, OTHER)) == b"o"


def test_bytes_are_bounded_and_the_oldest_goes() -> None:
    """However much comes."""
    replay = Replay(most_bytes=8000)
    for _ in range(1000):
        replay.put(parts(), 0.0)
    assert replay.size <= 7000
    assert replay.get(1000, (SHAPE,)) is not None
    assert replay.get(replay.first - 1, (SHAPE,)) is None


def test_what_is_old_goes() -> None:
    """After the time that it reaches back, to the second; a feed that stands still is emptied as well."""
    replay = Replay(seconds=60)
    for second in range(120):
        replay.put(parts(), float(second))
        replay.age(float(second))
    assert 58 <= replay.next - replay.first <= 63
    replay.age(1000.0)
    assert replay.first == replay.next == 121
    assert replay.size == 0


def test_noise_does_not_push_out_what_is_precious() -> None:
    """W6: the read of a decoy is still there after any amount of noise."""
    replay = Replay(most_bytes=80_000)
    decoy = replay.put(parts(), 0.0, precious=True)
    for second in range(300):
        for _ in range(100):
            replay.put(parts(), float(second))
        replay.age(float(second))
    assert replay.first > decoy
    assert replay.get(decoy, (SHAPE,)) is not None
    replay.age(2000.0)
    assert replay.get(decoy, (SHAPE,)) is None


def test_precious_ones_have_a_bound_of_their_own() -> None:
    """Who reads a decoy a million times fills that room alone, and the newest stay."""
    replay = Replay(most_bytes=80_000)
    for _ in range(1000):
        replay.put(parts(), 0.0, precious=True)
    held = [sequence for sequence in range(1, replay.first) if replay.get(sequence, (SHAPE,))]
    assert 0 < len(held) <= 10_000 // 300
    assert held == list(range(held[0], replay.first))


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.floats(0, 30)), max_size=120))
def test_it_is_bounded_and_never_lies(steps: list[tuple[int, bool, float]]) -> None:
    """What it returns is what was put under that sequence, and its size is what it says."""
    replay = Replay(most_bytes=4000, seconds=60)
    put: dict[int, bytes] = {}
    now = 0.0
    for size, precious, later in steps:
        now += later
        data = b"%d" % len(put) * (size // 2)
        sequence = replay.put({SHAPE: data} if size % 3 else None, now, precious=precious)
        put[sequence] = data
        replay.age(now)
        assert replay.size <= 3500
    for sequence, data in put.items():
        assert replay.get(sequence, (SHAPE,)) in (None, data)
    present = [replay.get(sequence, (SHAPE,)) for sequence in range(replay.first, replay.next)]
    assert replay.size == sum(8 + (208 - 8 + len(found) if found is not None else 0) for found in present)
