"""journal verify, list, salvage, adopt-copy: at a folder that a real manager has written.

Not for: every way in which a file can be damaged (journal/).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from syncpoint.ids import TransactionId
from syncpoint.manager.sync import TransactionManager
from tests.cli.conftest import Command
from tests.cli.test_errors import refused

STORED = "a value of the user's"
TRANSACTION = str(TransactionId.from_user_id("", "order-1"))


@pytest.fixture
def journal(command: Command) -> Path:
    """A closed journal with one committed transaction and its result."""
    with TransactionManager("journal", {"bank": "memory://cli-journal"}) as manager:
        assert manager.run(lambda tx: STORED, id="order-1") == STORED
    return Path("journal")


def segments(journal: Path) -> list[Path]:
    return sorted((journal / "segments").iterdir())


def damage(journal: Path) -> Path:
    """One byte of the first record flipped, with forced records behind it."""
    [segment, *_] = segments(journal)
    data = bytearray(segment.read_bytes())
    data[120] ^= 1
    segment.write_bytes(data)
    return segment


def test_verify_a_sound_journal(command: Command, journal: Path) -> None:
    ran = command("journal", "verify", "journal")
    assert ran.exit_code == 0
    assert "Nothing is damaged." in ran.stdout
    document = command("journal", "verify", "journal", "--json").json
    assert (document["ok"], document["damages"], document["is_copy"]) == (True, [], False)
    assert document["records"] == sum(segment["records"] for segment in document["segments"]) > 0
    assert len(document["coordinator"]) == 32


def test_list_shows_the_decision_and_not_the_data(command: Command, journal: Path) -> None:
    ran = command("journal", "list", "journal")
    assert f"commit       {TRANSACTION}" in ran.stdout
    assert "user_id=order-1" in ran.stdout
    documents = command("journal", "list", "journal", "--json")
    [commit] = [record for record in documents.json["records"] if record["kind"] == "commit"]
    assert (commit["transaction"], commit["user_id"]) == (TRANSACTION, "order-1")
    assert commit["attempt"].startswith(f"{commit['incarnation']}.")
    assert commit["result_size_bytes"] > len(STORED)
    for shown in (ran.stdout, documents.stdout):
        assert STORED not in shown
        assert STORED.encode().hex() not in shown


def test_list_shows_the_data_when_asked(command: Command, journal: Path) -> None:
    documents = command("journal", "list", "journal", "--data", "--json").json["records"]
    [commit] = [record for record in documents if record["kind"] == "commit"]
    assert STORED.encode().hex() in commit["result"]


def test_o41_a_damaged_journal_is_refused_and_salvaged(command: Command, journal: Path) -> None:
    segment = damage(journal)
    before = segment.read_bytes()
    in_doubt = command("in-doubt", "--journal", "journal", "--resource", "bank=memory://cli-journal")
    refused(in_doubt, "The journal is damaged", str(segment), "syncpoint journal salvage")
    refused(command("journal", "list", "journal"), "The journal is damaged", str(segment))
    verified = command("journal", "verify", "journal", "--json")
    assert verified.exit_code == 1
    assert [one["file"] for one in verified.json["damages"]] == [str(segment)]
    salvaged = command("journal", "salvage", "journal", "--json")
    assert salvaged.exit_code == 0
    assert salvaged.json["damages"][0]["file"] == str(segment)
    assert TRANSACTION in {record.get("transaction") for record in salvaged.json["records"]}
    assert str(segment) in command("journal", "salvage", "journal").stdout
    assert segment.read_bytes() == before, "nothing was changed"


def test_a_copy_is_refused_until_it_is_adopted(command: Command, journal: Path) -> None:
    shutil.copytree(journal, "copy")
    shutil.rmtree(journal)
    use = ("outcome", "order-1", "--journal", "copy", "--resource", "bank=memory://cli-journal")
    refused(command(*use), "copy")
    assert command("journal", "verify", "copy").exit_code == 1
    assert "adopt-copy" in command("journal", "verify", "copy").stdout

    unasked = command("journal", "adopt-copy", "copy", input="n\n")
    assert unasked.exit_code == 1
    refused(command(*use), "copy")

    adopted = command("journal", "adopt-copy", "copy", "--yes", "--json").json
    assert adopted["counter_after"] > adopted["counter_before"]
    assert command("journal", "verify", "copy").exit_code == 0
    assert "committed" in command(*use).stdout


def test_adopting_is_refused_while_a_process_uses_the_folder(command: Command, journal: Path) -> None:
    with TransactionManager("journal", {"bank": "memory://cli-journal"}):
        refused(command("journal", "adopt-copy", "journal", "--yes"), "is using the journal", "Stop it first.")


def test_reading_goes_beside_a_living_process(command: Command, journal: Path) -> None:
    with TransactionManager("journal", {"bank": "memory://cli-journal"}):
        assert command("journal", "verify", "journal").exit_code == 0
        assert TRANSACTION in command("journal", "list", "journal").stdout


@pytest.mark.parametrize("arguments", [["verify"], ["list"], ["salvage"], ["adopt-copy", "--yes"]])
@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_what_is_no_journal(command: Command, arguments: list[str], what: str) -> None:
    if what == "empty":
        Path("empty").mkdir()
    elif what == "file":
        Path("file").write_text("not a journal", encoding="utf-8")
    refused(command("journal", *arguments, what), what)
    assert not Path("missing").exists()
    assert what != "empty" or list(Path("empty").iterdir()) == []
