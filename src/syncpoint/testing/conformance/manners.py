"""Checks of how an adapter behaves: refusals, errors, waits, URLs, findings, sessions that are closed or handed on.

Not for: transactions' outcomes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from syncpoint.errors import ConfigurationError, ResourceUnavailable, SyncpointError
from syncpoint.resources.base import Answer, Choice, Finding, Resource, Session, Severity
from syncpoint.testing.conformance.bench import GRACE_S, SHORT_MS, Bench, Branch

DEADLOCK_MS = 2500


class Manners:
    """What resources/base.py promises besides outcomes."""

    # --- the user's connection ----------------------------------------------------------------------------

    @pytest.mark.parametrize("name", ["commit", "rollback", "close", "autocommit"])
    def test_the_connection_refuses_to_end_the_branch(self, bench: Bench, name: str) -> None:
        key = bench.key()
        branch = bench.wrote(key)
        call = _ending(bench.connection(branch), name)
        if call is None:
            pytest.skip(f"connection: this driver's connections have no {name}")
        error = bench.attempt(call)
        what = f"{name} on a branch's connection is refused, with an error of Syncpoint's"
        bench.expect(isinstance(error, SyncpointError), "connection", what, error)
        bench.expect_row(key, None, "connection", f"a refused {name} ends nothing")
        vote = bench.prepare(branch)
        bench.expect(vote.choice is Choice.YES, "connection", f"after a refused {name} the branch goes on", vote)
        bench.run(bench.resource.commit(branch.session))
        bench.expect_row(key, 1, "connection", f"after a refused {name} the branch is committed whole")

    def test_a_connection_kept_after_the_end_writes_nothing(self, bench: Bench) -> None:
        key, late = bench.key(), bench.key()
        branch = bench.wrote(key)
        connection = bench.connection(branch)
        bench.run(bench.resource.commit_one_phase(branch.session))
        error = bench.attempt(lambda: bench.subject.put(connection, late, 1))
        what = "a write through a connection whose branch has ended is refused"
        bench.expect(error is not None, "connection", what, error)
        bench.expect_row(late, None, "connection", what)

    # --- waiting and errors ----------------------------------------------------------------------------------

    def test_o43_waiting_for_a_lock_ends_with_the_transactions_time(self, bench: Bench) -> None:
        key = bench.key()
        bench.wrote(key)
        error, seconds = bench.attempt_to_write(key)
        bench.expect(error is not None, "timeout", "two branches cannot write one row at once", error)
        assert error is not None
        bench.expect(
            bench.resource.is_retryable(error), "retry", "a lock that was waited for in vain is retryable", error
        )
        limit = SHORT_MS / 1000 + GRACE_S
        bench.expect(seconds < limit, "timeout", f"the wait ends when {SHORT_MS} ms are over", f"{seconds:.1f} s")

    def test_a_deadlock_is_retryable_for_its_victim(self, bench: Bench) -> None:
        if bench.resource.single_writer:
            pytest.skip("deadlock: there is a single writer, so nobody waits in a circle")
        first, second = bench.key(), bench.key()
        bench.committed(first)
        bench.committed(second)
        one, other = bench.begin(remaining_ms=DEADLOCK_MS), bench.begin(remaining_ms=DEADLOCK_MS)
        bench.put(one, first, 2)
        bench.put(other, second, 2)
        errors = self._side_by_side(bench, (one, second), (other, first))
        bench.expect(len(errors) > 0, "retry", "of two branches in a deadlock one is told an error", errors)
        for error in errors:
            is_retryable = bench.resource.is_retryable(error)
            bench.expect(is_retryable, "retry", "the victim of a deadlock may try again (`is_retryable`)", error)

    def _side_by_side(self, bench: Bench, *writes: tuple[Branch, str]) -> list[BaseException]:
        """Write each row on its branch at the same time; whoever fails rolls back at once, as the manager would."""
        if bench.mode == "sync":
            errors: list[BaseException] = []
            threads = [threading.Thread(target=self._write, args=(bench, *write, errors)) for write in writes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return errors

        async def both() -> list[BaseException]:
            written = (self._write_async(bench, *write) for write in writes)
            return [error for error in await asyncio.gather(*written) if error is not None]

        found: list[BaseException] = bench.do(both)
        return found

    def _write(self, bench: Bench, branch: Branch, key: str, errors: list[BaseException]) -> None:
        try:
            bench.subject.put(bench.connection(branch), key, 3)
        except Exception as error:
            errors.append(error)
            bench.runner.run(bench.resource.abort(branch.session))

    async def _write_async(self, bench: Bench, branch: Branch, key: str) -> BaseException | None:
        try:
            await bench.subject.put(bench.connection(branch), key, 3)
        except Exception as error:
            await bench.runner.run(bench.resource.abort(branch.session))
            return error
        return None

    def test_what_will_fail_again_is_not_retryable(self, bench: Bench) -> None:
        for error in (ValueError("no"), KeyError("k"), ConfigurationError("no")):
            seen = bench.resource.is_retryable(error)
            bench.expect(seen is False, "retry", f"{error!r} is not retryable", seen)
        branch = bench.begin()
        refused = bench.attempt(lambda: bench.hook(lambda: bench.subject.fail(bench.connection(branch))))
        assert refused is not None, "Subject.fail must make a statement fail"
        seen = bench.resource.is_retryable(refused)
        bench.expect(seen is False, "retry", f"a refused statement is not retryable: {refused!r}", seen)

    def test_blockers_never_raises(self, bench: Bench) -> None:
        session = bench.open()
        seen = bench.run(bench.resource.blockers(session))
        bench.expect(isinstance(seen, str), "blockers", "`blockers` returns text", seen)
        session.broken = True
        seen = bench.run(bench.resource.blockers(session))
        bench.expect(isinstance(seen, str), "blockers", "`blockers` of a broken session returns text", seen)

    # --- sessions --------------------------------------------------------------------------------------------

    def test_close_never_raises(self, bench: Bench) -> None:
        idle, working = bench.open(), bench.wrote(bench.key())
        broken = bench.open()
        broken.broken = True
        for session, what in ((idle, "an idle"), (working.session, "a working"), (broken, "a broken")):
            for times in ("", " again"):
                error = bench.attempt(partial(self._close, bench, session))
                bench.expect(error is None, "close", f"closing {what} session{times} raises nothing", error)

    def _close(self, bench: Bench, session: Session) -> Any:
        return bench.runner.run(bench.resource.close(session))

    def test_an_idle_session_is_usable_and_a_broken_one_is_not(self, bench: Bench) -> None:
        session = bench.open()
        seen = bench.resource.is_usable(session)
        bench.expect(seen, "pool", "a new session is usable", seen)
        session.broken = True
        seen = bench.resource.is_usable(session)
        bench.expect(not seen, "pool", "a broken session is not usable", seen)

    def test_a_forked_child_that_abandons_a_session_does_not_end_it(self, bench: Bench) -> None:
        from syncpoint.testing.crash.child import in_child, say

        if bench.mode == "async":
            pytest.skip("fork: tried in blocking mode; a child would have to leave the loop that runs")
        if "crash" in bench.subject.without:
            pytest.skip(f"fork: {bench.subject.without['crash']}")
        key = bench.key()
        branch = bench.wrote(key)

        def abandon(channel: Any) -> None:
            bench.resource.abandon(branch.session)
            say(channel, broken=branch.session.broken)

        ended = in_child(abandon, seconds_max=20.0)
        error = ended.last("error")
        bench.expect(error is None, "fork", "`abandon` raises nothing in a forked child", error)
        bench.expect(ended.last("broken") is True, "fork", "an abandoned session is broken", ended.said)
        vote = bench.prepare(branch)
        bench.expect(vote.choice is Choice.YES, "fork", "what a child abandons goes on in its parent", vote)
        bench.run(bench.resource.commit(branch.session))
        bench.expect_row(key, 1, "fork", "the parent's branch is committed")

    def test_a_lent_connection_is_used_and_given_back(self, bench: Bench) -> None:
        if type(bench.resource).borrow is Resource.borrow:
            error = bench.attempt(lambda: bench.runner.run(bench.resource.borrow(object(), bench.runner)))
            what = "an adapter that cannot borrow says so (ConfigurationError)"
            bench.expect(isinstance(error, ConfigurationError), "borrow", what, error)
            return
        if bench.mode == "async":
            pytest.skip("borrow: only blocking connections are lent")
        key, connection = bench.key(), bench.hook(bench.subject.lend)
        session, guid = bench.run(bench.resource.borrow(connection, bench.runner))
        bench.expect(guid == bench.guid, "borrow", "a lent connection shows the database's GUID", guid)
        for number in (1, 2):
            branch = bench.begin(session=session)
            bench.put(branch, key, number)
            bench.prepare(branch)
            answer = bench.run(bench.resource.commit(session))
            bench.expect(answer is Answer.COMMITTED, "borrow", "a branch on a lent connection commits", answer)
            bench.run(bench.resource.give_back(session))
            bench.expect(not session.broken, "borrow", "given back after a commit it is whole", session.broken)
        bench.expect_row(key, 2, "borrow", "two branches on a lent connection were committed")
        error = bench.attempt(lambda: bench.subject.get(connection, key))
        bench.expect(error is None, "borrow", "its owner goes on with it", error)
        connection.close()

    # --- set-up ---------------------------------------------------------------------------------------------

    def test_bad_urls_and_options_are_refused_in_words(self, bench: Bench) -> None:
        url = bench.subject.url
        unknown = f"{url}{'&' if '?' in url else '?'}surely_no_option=1"
        for bad in (unknown, *bench.subject.bad_urls):
            try:
                made: object = bench.subject.make(bench.mode, bad)
            except ConfigurationError:
                continue
            except Exception as error:
                made = error
            bench.fail("url", f"the URL {_hidden(bad)} is refused with ConfigurationError", made)

    def test_the_safe_url_shows_no_secret(self, bench: Bench) -> None:
        parts = urlsplit(bench.subject.url)
        secret = "hush-hush"  # noqa: S105  # nobody's
        host = parts.netloc.rpartition("@")[2]
        if not host:
            pytest.skip("url: its URLs have no place for a password")
        url = parts._replace(netloc=f"someone:{secret}@{host}").geturl()
        try:
            resource = bench.subject.make(bench.mode, url)
            texts = [resource.safe_url, repr(resource)]
        except ConfigurationError as error:
            texts = [str(error), repr(error)]
        for shown in texts:
            bench.expect(secret not in shown, "url", "a password is never shown", shown)

    def test_a_database_that_cannot_be_reached_is_unavailable(self, bench: Bench) -> None:
        url = bench.subject.unreachable_url
        if not url:
            pytest.skip("open: Subject.unreachable_url is not given")
        resource = bench.subject.make(bench.mode, url)
        error = bench.attempt(lambda: bench.runner.run(resource.open()))
        what = "a database that cannot be reached raises ResourceUnavailable"
        bench.expect(isinstance(error, ResourceUnavailable), "open", what, error)
        assert isinstance(error, ResourceUnavailable)
        bench.expect(len(str(error)) > 0, "open", "and says what to do", error)

    def test_the_doctors_findings_are_findings(self, bench: Bench) -> None:
        before = bench.rows()
        findings = bench.run(bench.resource.inspect(bench.open()))
        self._expect_findings(bench, "inspect", findings)
        refused = [one for one in findings if one.severity is Severity.REFUSED]
        bench.expect(not refused, "doctor", "a set-up in which every check is run is not refused", refused)
        bench.expect(bench.rows() == before, "doctor", "`inspect` changes nothing", bench.rows())
        self._expect_findings(bench, "look_only", list(bench.make().look_only()))
        texts = list(bench.resource.init_statements())
        what = "`init_statements` are texts that a person could type"
        bench.expect(all(isinstance(text, str) for text in texts), "doctor", what, texts)

    def _expect_findings(self, bench: Bench, method: str, findings: Any) -> None:
        kinds = isinstance(findings, list) and all(isinstance(one, Finding) for one in findings)
        bench.expect(kinds, "doctor", f"`{method}` returns findings", findings)
        without_fix = [one for one in findings if one.severity is Severity.REFUSED and not one.fix]
        bench.expect(not without_fix, "doctor", "what is refused has a line that mends it", without_fix)


def _ending(connection: Any, name: str) -> Callable[[], Any] | None:
    """A call that would end the branch, or None when the driver has no such thing."""
    if name == "autocommit":
        setter = getattr(connection, "set_autocommit", None)
        if callable(setter):
            return lambda: setter(True)
        if not hasattr(type(connection), name):
            return None
        own = getattr(connection, name)
        return (lambda: own(True)) if callable(own) else (lambda: setattr(connection, name, True))
    call = getattr(connection, name, None)
    return call if callable(call) else None


def _hidden(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
