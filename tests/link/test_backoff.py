"""Pauses between two tries grow, stay below their bound and are never equal for all; log lines are few."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncpoint.link.backoff import BackOff, Complaints

fractions = st.floats(0, 1, exclude_max=True)


@given(st.lists(fractions, min_size=1, max_size=100), st.floats(0.001, 10), st.floats(1, 1000))
def test_pauses_are_within_their_bounds(chances: list[float], base_s: float, times: float) -> None:
    max_s = base_s * times
    back_off = BackOff(base_s, max_s)
    for number, chance in enumerate(chances):
        whole_s = min(max_s, base_s * 2.0**number)
        assert whole_s / 2 <= back_off.next_pause_s(chance) <= whole_s
    back_off.reset()
    assert back_off.next_pause_s(0.999) <= base_s


def test_chance_spreads_them() -> None:
    assert {BackOff(1.0, 8.0).next_pause_s(chance / 4) for chance in range(4)} == {0.5, 0.625, 0.75, 0.875}


def test_the_same_complaint_is_made_a_few_times_a_period() -> None:
    complaints = Complaints(60.0)
    assert complaints.may_say("garbage", now_s=0.0) == (True, 0)
    assert complaints.may_say("garbage", now_s=1.0) == (False, 0)
    assert complaints.may_say("other", now_s=1.0) == (True, 0)
    assert complaints.may_say("garbage", now_s=59.0) == (False, 0)
    assert complaints.may_say("garbage", now_s=60.0) == (True, 2)
    assert complaints.may_say("garbage", now_s=119.0) == (False, 0)
    complaints.forget("garbage")
    assert complaints.may_say("garbage", now_s=119.5) == (True, 0)
    assert [complaints.may_say("name", now_s=0.0, burst=3)[0] for _ in range(5)] == [True, True, True, False, False]
    assert complaints.may_say("name", now_s=60.0, burst=3) == (True, 2)


def test_complaints_take_bounded_memory() -> None:
    complaints = Complaints(60.0)
    for number in range(Complaints.KINDS_MAX * 3):
        complaints.may_say(str(number), now_s=0.0)
    assert repr(complaints) == f"<Complaints {Complaints.KINDS_MAX} kinds>"
