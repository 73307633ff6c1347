"""The rules, and what TLC must say: nothing while all are kept, a counterexample when one is dropped.

A model that stays green without a rule is too small, or checks too little. Not for: the rules themselves (spec/*.tla).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.spec.tlc import Result, check


@dataclass(frozen=True)
class Model:
    """One configuration of one module."""

    name: str
    module: str
    config: str
    constants: Mapping[str, str] = field(default_factory=dict)
    expected: str = "green"

    def check(self, *, workers: int = 1, seconds_max: float = 900) -> Result:
        return check(self.module, self.config, constants=self.constants, workers=workers, seconds_max=seconds_max)


@dataclass(frozen=True)
class Rule:
    """A rule that is dropped in one module; `page` is where it stands."""

    name: str
    module: str
    page: str
    constants: Mapping[str, str] = field(default_factory=dict)

    def check(self, *, workers: int = 1, seconds_max: float = 900) -> Result:
        """Without the rule."""
        constants = {**self.constants, "Dropped": f'{{"{self.name}"}}'}
        return check(self.module, f"{self.module}.cfg", constants=constants, workers=workers, seconds_max=seconds_max)


FOLDER, DATABASE, OVERTAKEN, ONE_PHASE = "FolderJournal", "DatabaseJournal", "Overtaken", "OnePhase"

ONE = {"RM": "{r1}"}
POWER = {"PowerCuts": "1"}
DECIDER = {"Decider": "{r1}", "SYMMETRY": "None"}
QUICK = (
    "atomic commit",
    "folder: a process dies, another recovers",
    "one phase, and settled",
    "database: decided in a branch",
)
TWO_TRIES = {"Attempt": "AttemptsOfTwo", "RM": "{r1}", "Mortal": "{1}"}
OWN_PASSES = {"Recoverers": "{1}"}
BOTH = {"Recoverers": "{1, 2}", **ONE}
INTERRUPTED = {"Interrupts": "TRUE", **OWN_PASSES}
LOST_END = {**POWER, "Recoverers": "{1, 2}", "RM": "{r1}"}

RIVALS = {**TWO_TRIES, "Kept": "TRUE", "Recoverers": "{}", "Mortal": "{}"}

RULES = (
    Rule("VoteDurable", FOLDER, "A3, A7: a vote is durable before it is sent"),
    Rule("AllVoteYes", FOLDER, "A9: no commit unless all have voted yes", {"Votes": '{"yes", "no"}'}),
    Rule("ForceBeforeSend", FOLDER, "C-I1, R1: the record is forced before anybody is told", POWER),
    Rule("AbortBarsCommit", FOLDER, "O46: after an Abort under its key a Commit is refused", {"Interrupts": "TRUE"}),
    Rule("AbortSettles", FOLDER, "O46: a lost reply is settled by Abort, never assumed", {"Interrupts": "TRUE"}),
    Rule("ProofOfDeath", FOLDER, "O34: whose lock cannot be had lives"),
    Rule("CopyBeforeActing", FOLDER, "O59: what a dead process wrote is forced before it is acted on", POWER),
    Rule("ClearAfterForce", FOLDER, "O59: its file goes after its copy is forced", POWER),
    Rule("ScanBeforeLive", FOLDER, "DESIGN 3: scan, then live, then records", OWN_PASSES),
    Rule("LiveBeforeRecords", FOLDER, "DESIGN 3: scan, then live, then records", OWN_PASSES),
    Rule("SkipTheLiving", FOLDER, "O36: recovery leaves alone what lives", OWN_PASSES),
    Rule("RecordSpeaksForItsOwn", FOLDER, "O58: a record speaks only for what it lists", TWO_TRIES),
    Rule("NewIncarnation", FOLDER, "ids.py: an incarnation is never used twice", {"RM": "{r1}"}),
    Rule("ClaimTheId", FOLDER, "C7, O56: one attempt at a time", TWO_TRIES),
    Rule("EndAfterAcks", FOLDER, "O28: End when every branch has acknowledged"),
    Rule("EvidenceOutlivesRecord", FOLDER, "DESIGN 3: evidence outlives its record", BOTH),
    Rule("EndForcedFirst", FOLDER, "ARCHITECTURE: evidence goes when End is certainly on disk", LOST_END),
    Rule("NotFoundIsAQuestion", FOLDER, "O19: not found is a question; evidence answers it"),
    Rule("AlarmOnlyWhileOpen", OVERTAKEN, "recovery.py: absent evidence proves nothing of a record that has ended"),
    Rule("KeepBeforePresuming", DATABASE, "O34: nobody presumes abort before he is the keeper"),
    Rule("KeeperBars", DATABASE, "O54: no Commit of an incarnation that another one keeps"),
    Rule("ShareLock", DATABASE, "O54: the INSERT holds its incarnation's row until it has ended"),
    Rule("AbortBarsCommit", DATABASE, "O46: after an Abort under its key a Commit is refused"),
    Rule("OneCommit", DATABASE, "O47, O56: of all attempts one commits", RIVALS),
    Rule("CommittedIdsStay", DATABASE, "C7, C8: with an id the record stays when it has ended", RIVALS),
    Rule("AbortSettles", DATABASE, "O46: a lost reply is settled by Abort, never assumed"),
    Rule("AbortStays", DATABASE, "O54: an Abort is removed only when its incarnation is barred"),
    Rule("ConfirmAbort", DATABASE, "O46: an accepted Abort proves nothing to who was taken over", ONE),
    Rule("ConfirmAbsence", DATABASE, "Journal.confirm: absent evidence proves nothing to who was taken over", ONE),
    Rule("EvidenceOutlivesRecord", DATABASE, "DESIGN 3: evidence outlives its record", BOTH),
    Rule("EndAfterAcks", DATABASE, "O28: End when every branch has acknowledged", ONE),
    Rule("BarredCommitFails", ONE_PHASE, "O20: a one-phase commit whose key is barred fails"),
    Rule("SettleBars", ONE_PHASE, "O20: settling writes the evidence key, it does not only look"),
    Rule("BarringStays", ONE_PHASE, "ARCHITECTURE: barring evidence stays for ever"),
    Rule("ConfirmSettled", ONE_PHASE, "O20: an absent key proves nothing to who was taken over"),
    Rule("UnsettledIsUnfinished", ONE_PHASE, "core.py: what is unsettled keeps its evidence"),
)

MODELS = (
    Model("atomic commit", "AtomicCommit", "AtomicCommit.cfg"),
    Model("folder: a process dies, another recovers", FOLDER, "FolderJournal.cfg"),
    Model("folder: power cuts", FOLDER, "FolderJournal.cfg", POWER),
    Model(
        "folder: interrupted, and recovered by itself",
        FOLDER,
        "FolderJournal.cfg",
        {"Interrupts": "TRUE", **OWN_PASSES},
    ),
    Model("folder: every vote", FOLDER, "FolderJournal.cfg", {"Votes": '{"yes", "no", "readonly"}'}),
    Model("folder: two attempts", FOLDER, "FolderJournal.cfg", TWO_TRIES),
    Model("folder: End is lost", FOLDER, "FolderJournal.cfg", LOST_END),
    Model("database: taken for dead, wakes", DATABASE, "DatabaseJournal.cfg"),
    Model("database: dies", DATABASE, "DatabaseJournal.cfg", {"Mortal": "{1}"}),
    Model("database: decided in a branch", DATABASE, "DatabaseJournal.cfg", DECIDER),
    Model("database: two attempts at once", DATABASE, "DatabaseJournal.cfg", RIVALS),
    Model("one phase, and settled", ONE_PHASE, "OnePhase.cfg"),
    Model("folder: overtaken by another's cleaning", OVERTAKEN, "Overtaken.cfg"),
)
"""What must be green. The first of each module are small enough for every test run; all of them take minutes."""
QUICK_MODELS = tuple(model for model in MODELS if model.name in QUICK)
