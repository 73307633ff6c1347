"""The journal at a node: sessions, lost questions and answers, applications that are fenced (O34, O46, O55, O59)."""

from __future__ import annotations

import pytest

from syncpoint.errors import JournalFailed, JournalUnavailable, JournalUncertain, ManagerClosed, ResourceUnavailable
from syncpoint.ids import Incarnation, Key
from syncpoint.journal import node, node_reading
from syncpoint.journal import node_messages as say
from syncpoint.journal.base import Claim, Verdict
from syncpoint.messages import Message
from syncpoint.records import Prepared, encode_record, key_fields
from syncpoint.testing.in_process import Fate
from syncpoint.testing.servers.base import wait_until
from tests.journal.support import abort, commit, end, heuristic, identifier, key, known, resolved, transaction
from tests.node.world import Application, NodeWorld

ACCEPTED, REFUSED = (Verdict.ACCEPTED,), (Verdict.REFUSED,)


def own(application: Application, number: int) -> Key:
    """A key of this application's, of the incarnation that it has now."""
    return key(number, application.journal.next_attempt())


def prepared(of: Key) -> Prepared:
    return Prepared(**key_fields(of), superior=b"S" * 16, branches=(), identifier=identifier(of))


def fence(world: NodeWorld, application: Application) -> None:
    """It stands still for longer than it is waited for."""
    world.hall.disconnect(application.name)
    wait_until(lambda: not world.host.sessions(), "it is fenced")
    world.hall.reconnect(application.name)


def test_each_application_has_an_incarnation_and_the_node_one_of_its_own(world: NodeWorld) -> None:
    first, second = world.application("app-1"), world.application("app-2")
    assert [world.heir.incarnation, first.incarnation, second.incarnation] == [1, 2, 3]
    assert first.journal.coordinator == world.heir.coordinator
    assert first(first.journal.look()).live == {1, 3}
    assert first(first.journal.highest_incarnation()) == 3
    assert [peer.name for peer in world.host.applications()] == ["app-1", "app-2"]


def test_what_is_forced_is_found_by_everybody(world: NodeWorld) -> None:
    first, second = world.application("app-1"), world.application("app-2")
    mine = own(first, 1)
    assert first(first.journal.force((commit(mine, user_id="x", result=b"r"), known("bank")))) == 2 * ACCEPTED
    found = second(second.journal.find(transaction(1)))
    assert found is not None
    assert found.result == b"r"
    assert second(second.journal.look()).elsewhere == {mine}
    assert first.journal.resource("bank") is not None
    assert second.journal.resource("bank") == first.journal.resource("bank")
    assert second(second.journal.story(transaction(1))).records == ((Incarnation(2), found),)
    assert second(second.journal.transactions()) == [mine]
    assert first(first.journal.unended(mine))
    assert not second(second.journal.unended(mine))


def test_an_end_is_known_at_once_here_and_goes_along_with_what_is_asked_next(world: NodeWorld) -> None:
    app = world.application()
    mine = own(app, 1)
    app(app.journal.force((commit(mine),)))
    assert set(app(app.journal.look()).decisions) == {mine}
    app.journal.note((end(mine),))
    assert not app(app.journal.unended(mine))
    assert not app(app.journal.look()).decisions
    app(app.journal.force(()))
    world.restart()
    assert not world.run(world.heir.look()).decisions


def test_first_writer_wins(world: NodeWorld) -> None:
    app = world.application()
    one, two = own(app, 1), own(app, 1)
    assert app(app.journal.force((commit(one),))) == ACCEPTED
    assert app(app.journal.force((commit(two),))) == REFUSED
    assert app(app.journal.force((abort(one),))) == REFUSED
    assert app(app.journal.force((abort(two),))) == ACCEPTED


def test_notes_of_operators_are_listed(world: NodeWorld) -> None:
    app, other = world.application("app-1"), world.application("app-2")
    mine = own(app, 1)
    app(app.journal.force((heuristic(mine), resolved(mine))))
    assert len(other(other.journal.heuristics())) == len(other(other.journal.resolutions())) == 1


def test_a_snapshot_of_many_large_records_comes_in_pages(world: NodeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_reading, "PAGE_SIZE_BYTES_MAX", 500)
    app = world.application()
    keys = {own(app, number) for number in range(20)}
    app(app.journal.force([commit(one, user_id="x", result=b"r" * 300) for one in keys]))
    assert set(app(app.journal.look()).decisions) == keys
    assert sum(kind == "Look" for *_, kind in world.hall.asked) > 5


# --- claims ----------------------------------------------------------------------------------------------------------


def test_a_claim_keeps_the_others_away_until_it_is_given_back(world: NodeWorld) -> None:
    first, second = world.application("app-1"), world.application("app-2")
    assert first(first.journal.claim(transaction(1))) == Claim(mine=True)
    assert second(second.journal.claim(transaction(1))) == Claim(running=True)
    assert first(first.journal.claim(transaction(1))) == Claim(running=True)
    first.journal.release(transaction(1))
    wait_until(lambda: second(second.journal.claim(transaction(1))).mine, "it was given back")


def test_a_committed_id_stays_committed(world: NodeWorld) -> None:
    first, second = world.application("app-1"), world.application("app-2")
    first(first.journal.claim(transaction(1)))
    record = commit(own(first, 1), user_id="x")
    first(first.journal.force((record,)))
    assert second(second.journal.claim(transaction(1))) == Claim(running=True)
    first.journal.note((end(record.key),))
    first.journal.release(transaction(1))
    assert first(first.journal.claim(transaction(1))) == Claim(committed=record)
    assert second(second.journal.claim(transaction(1))) == Claim(committed=record)


def test_a_claim_whose_answer_is_lost_for_good_is_given_back(world: NodeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "AWAY_S_MAX", 0.0)
    first, second = world.application("app-1"), world.application("app-2")
    world.once(say.TakeClaim, Fate.UNANSWERED)
    with pytest.raises(JournalUncertain):
        first(first.journal.claim(transaction(1)))
    wait_until(lambda: second(second.journal.claim(transaction(1))).mine, "it was given back")


def test_giving_back_late_what_an_earlier_session_claimed_gives_back_nothing_else(world: NodeWorld) -> None:
    app = world.application()
    app(app.journal.claim(transaction(1)))
    fence(world, app)
    assert app(app.journal.claim(transaction(1))) == Claim(running=True)  # its first holder here is not done yet
    app.journal.release(transaction(1))
    assert app(app.journal.claim(transaction(1))) == Claim(mine=True)
    other = world.application("app-2")
    assert other(other.journal.claim(transaction(1))) == Claim(running=True)


# --- what is lost -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED, Fate.TWICE])
def test_a_question_or_an_answer_that_is_lost_once_is_asked_again_and_done_once(world: NodeWorld, fate: Fate) -> None:
    app = world.application()
    world.once(say.Force, fate)
    one, two = own(app, 1), own(app, 1)
    assert app(app.journal.force((commit(one),))) == ACCEPTED
    assert app(app.journal.force((commit(two),))) == REFUSED
    world.once(say.TakeClaim, fate)
    assert app(app.journal.claim(transaction(2))).mine


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
def test_a_force_whose_answer_is_lost_for_good_is_uncertain_and_settled_by_an_abort(
    world: NodeWorld, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "AWAY_S_MAX", 0.0)
    app = world.application()
    mine = own(app, 1)
    world.once(say.Force, fate)
    with pytest.raises(JournalUncertain):
        app(app.journal.force((commit(mine),)))
    assert app(app.journal.force((abort(mine),))) == (ACCEPTED if fate is Fate.LOST else REFUSED)
    assert app(app.journal.confirm(mine.attempt.incarnation))


def test_an_answer_that_is_lost_and_then_nobody_there_is_uncertain(
    world: NodeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "AWAY_S_MAX", 0.2)
    app = world.application()
    mine = own(app, 1)

    def away(source: str, target: str, question: Message) -> None:
        if isinstance(question, say.Force):
            raise ResourceUnavailable("It is away.")

    world.hall.rules.append(away)
    world.once(say.Force, Fate.UNANSWERED)
    with pytest.raises(JournalUncertain):
        app(app.journal.force((commit(mine),)))
    world.hall.rules.clear()
    assert app(app.journal.force((abort(mine),))) == REFUSED


def test_an_answer_that_is_lost_and_then_the_session_over_is_uncertain(world: NodeWorld) -> None:
    app = world.application()
    mine = own(app, 1)

    def fenced(source: str, target: str, question: Message) -> None:
        if isinstance(question, say.Force):
            world.hall.rules.remove(fenced)
            world.run(world.host.fence(app.name))

    world.hall.rules.append(fenced)
    world.once(say.Force, Fate.UNANSWERED)
    with pytest.raises(JournalUncertain):
        app(app.journal.force((commit(mine),)))
    assert app(app.journal.force((abort(mine),))) == REFUSED
    assert not app(app.journal.confirm(mine.attempt.incarnation))


def test_all_else_is_asked_again_in_the_next_session(world: NodeWorld) -> None:
    app = world.application()
    before = app.incarnation

    def fenced(source: str, target: str, question: Message) -> None:
        if isinstance(question, say.TakeClaim):
            world.hall.rules.remove(fenced)
            world.run(world.host.fence(app.name))

    world.hall.rules.append(fenced)
    world.once(say.TakeClaim, Fate.UNANSWERED)
    assert app(app.journal.claim(transaction(1))) == Claim(mine=True)
    assert app.incarnation > before


def test_what_was_certainly_not_asked_is_unavailable(world: NodeWorld) -> None:
    app = world.application()
    mine = own(app, 1)
    world.hall.disconnect(app.name)
    with pytest.raises(JournalUnavailable, match="syncpoint node"):
        app(app.journal.force((commit(mine),)))
    world.hall.reconnect(app.name)
    assert app(app.journal.find(transaction(1))) is None


def test_an_end_that_is_lost_with_its_question_goes_along_with_the_next(world: NodeWorld) -> None:
    app = world.application()
    mine = own(app, 1)
    app(app.journal.force((commit(mine),)))
    world.once(say.Flush, Fate.LOST)
    app.journal.note((end(mine),))
    app(app.journal.force(()))
    world.restart()
    assert not world.run(world.heir.look()).decisions


def test_a_short_break_ends_no_session(world: NodeWorld) -> None:
    app = world.application()
    before = app.incarnation
    world.hall.disconnect(app.name)
    world.hall.reconnect(app.name)
    assert app(app.journal.force((commit(own(app, 1)),))) == ACCEPTED
    app(app.journal.watch())
    assert app.incarnation == before


# --- fencing ----------------------------------------------------------------------------------------------------------


def test_who_is_gone_for_longer_is_fenced_and_its_decisions_are_the_nodes(world: NodeWorld) -> None:
    app = world.application()
    decided, not_decided = own(app, 1), own(app, 2)
    app(app.journal.force((commit(decided),)))
    fence(world, app)
    wait_until(lambda: set(world.run(world.heir.look()).decisions) == {decided}, "the node has its decision")
    assert app(app.journal.force((commit(not_decided),))) == REFUSED
    assert world.run(world.heir.find(transaction(2))) is None
    assert app.incarnation > decided.attempt.incarnation
    assert not app(app.journal.confirm(decided.attempt.incarnation))
    assert not app(app.journal.unended(decided))
    assert app(app.journal.force((commit(own(app, 3)),))) == ACCEPTED


def test_a_decision_whose_answer_was_lost_before_its_application_was_fenced_is_found_out(world: NodeWorld) -> None:
    app = world.application()
    decided, lost = own(app, 1), own(app, 2)
    app(app.journal.force((commit(decided),)))
    fence(world, app)
    assert app(app.journal.force((abort(decided),))) == REFUSED
    assert app(app.journal.force((abort(lost),))) == ACCEPTED
    assert app(app.journal.force((commit(lost),))) == REFUSED


def test_when_fence_returns_nothing_more_is_decided(world: NodeWorld) -> None:
    app = world.application()
    keys = [own(app, number) for number in range(1, 30)]
    forcing = [
        app.runner.spawn(app.journal.force((commit(one, user_id="x"),)), f"force {number}")
        for number, one in enumerate(keys)
    ]
    world.run(world.host.fence(app.name))
    held = set(world.run(world.heir.look()).decisions)
    for one in forcing:
        wait_until(one.ended.is_set, "it has its answer")
    assert set(world.run(world.heir.look()).decisions) == held
    assert {one for one in keys if app(app.journal.find(one.transaction))} == held


def test_an_application_finds_out_by_itself_that_it_was_fenced(world: NodeWorld) -> None:
    app = world.application()
    before = app.incarnation
    fence(world, app)
    app(app.journal.watch())
    assert app.incarnation > before


def test_a_node_that_was_restarted_fences_everybody(world: NodeWorld) -> None:
    app = world.application()
    decided, not_decided = own(app, 1), own(app, 2)
    app(app.journal.force((commit(decided),)))
    world.restart()
    assert set(world.run(world.heir.look()).decisions) == {decided}
    assert app(app.journal.force((commit(not_decided),))) == REFUSED
    assert app.incarnation == 4  # 1 and 3 are the nodes'


def test_the_outcome_of_what_the_dead_promised_is_taken_from_any_application(world: NodeWorld) -> None:
    dead, app = world.application("app-1"), world.application("app-2")
    one, two, three = own(dead, 1), own(dead, 2), own(dead, 3)
    dead(dead.journal.force((prepared(one), prepared(two))))
    assert set(app(app.journal.look()).promised_elsewhere) == {one, two}
    world.hall.disconnect("app-1")
    wait_until(lambda: len(world.host.sessions()) == 1, "it is fenced")
    wait_until(lambda: set(app(app.journal.look()).promised) == {one, two}, "its promises are everybody's")
    assert app(app.journal.force((commit(one), abort(two)))) == 2 * ACCEPTED
    assert app(app.journal.force((prepared(three), commit(three)))) == 2 * REFUSED
    view = world.run(world.heir.look())
    assert set(view.decisions) == {one}
    assert not view.promised


def test_a_session_that_its_application_closes_is_inherited_without_delay(world: NodeWorld) -> None:
    app = world.application()
    decided = own(app, 1)
    app(app.journal.force((commit(decided),)))
    app(app.journal.close())
    assert set(world.run(world.heir.look()).decisions) == {decided}
    with pytest.raises(ManagerClosed):
        app(app.journal.find(transaction(1)))


def test_late_questions_of_a_session_that_is_over_do_nothing(world: NodeWorld) -> None:
    app = world.application()
    exchange = app.journal.link
    mine = own(app, 1)
    late = say.Force(session=1, number=99, records=(encode_record(commit(mine)),))
    fence(world, app)
    app(app.journal.watch())
    for question in (late, say.Look(session=1, number=100), say.OpenSession(session=1)):
        assert isinstance(app(exchange.ask(question, 1.0)), say.SessionOver)
    assert isinstance(app(exchange.ask(say.Force(session=2, number=99, records=late.records), 1.0)), say.Verdicts)
    assert app(app.journal.find(transaction(1))) is None


def test_a_failed_disk_is_told_to_the_node_and_nothing_is_answered(
    world: NodeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "AWAY_S_MAX", 0.0)
    app = world.application()
    [session] = world.host.sessions()

    def fail(records: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.journal._writer, "write", fail)
    with pytest.raises(JournalUncertain):
        app(app.journal.force((commit(own(app, 1)),)))
    assert isinstance(world.failures[0], JournalFailed)


def test_nobody_there_is_said_plainly(world: NodeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "OPEN_S_MAX", 0.0)
    world.hall.disconnect("app-1")
    with pytest.raises(JournalUnavailable, match="cannot be reached to open a session"):
        Application(world.hall, "app-1").open()
