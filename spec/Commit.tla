------------------------------- MODULE Commit -------------------------------
(***************************************************************************)
(* Two-phase commit with presumed abort, and recovery: what                *)
(* `protocol/coordinator.py`, `protocol/recovery.py` and                   *)
(* `manager/recovery.py` do, as far as it is the same whatever the journal *)
(* is. FolderJournal and DatabaseJournal extend this module with a journal *)
(* and with what it tells of other processes: proof of death, or a guess.  *)
(*                                                                         *)
(* A process is named by its incarnation: a number that is never used      *)
(* twice. It coordinates the attempts whose first component it is, and     *)
(* recovers whatever it finds. Everything it knows is volatile; what is    *)
(* durable is in the journal and in the databases. A process that stops    *)
(* for a while and one that has died look alike from outside; here a       *)
(* paused one simply takes no step.                                        *)
(*                                                                         *)
(* An attempt's way, with the names of coordinator_table.py:               *)
(*                                                                         *)
(*   idle --> preparing --> deciding --> committing --> ended              *)
(*                |            |  \--> settling --/      ^                 *)
(*                |            v          |              |                 *)
(*                \--------> aborting <---/ -------------/                 *)
(*                                                                         *)
(* `gone`: its process has died.                                           *)
(***************************************************************************)
EXTENDS Branches

CONSTANTS Proc,     \* incarnations: 1..n, drawn in this order
          Recoverers, \* those of them that make passes of recovery
          Parts     \* the sets of resource managers that an attempt may have branches at

VARIABLES up,       \* up[p]: "unborn", "up" or "dead"
          phase,    \* phase[a]: where its coordinator is
          votes,    \* votes[b]: what the coordinator has received: "-" or a vote
          told,     \* told[a]: what its caller was told
          acks,     \* acks[p]: committed branches, as p was told
          asks,     \* asks[p]: branches that p was told do not exist: a question (O19)
          pass,     \* pass[p][r]: p's pass of recovery over the database r
          alarm     \* whether some process has reported a heuristic outcome: nobody causes one here

Owner(a) == a[1]
Live == {"preparing", "deciding", "settling", "committing", "aborting"}

procVars == <<up, phase, votes, told, acks, asks, pass, alarm>>
commitVars == <<unit, evidence, msgs, up, phase, votes, told, acks, asks, pass, alarm>>

\* No pass is under way.
NoPass == [stage |-> 0, found |-> {}, live |-> {}, commit |-> {}, abort |-> {}]

CommitInit ==
  /\ BranchesInit
  /\ up = [p \in Proc |-> "unborn"]
  /\ phase = [a \in Attempt |-> "idle"]
  /\ votes = [b \in Branch |-> "-"]
  /\ told = [a \in Attempt |-> "nothing"]
  /\ acks = [p \in Proc |-> {}]
  /\ asks = [p \in Proc |-> {}]
  /\ pass = [p \in Proc |-> [r \in RM |-> NoPass]]
  /\ alarm = FALSE

CommitTypeOK ==
  /\ BranchesTypeOK
  /\ up \in [Proc -> {"unborn", "up", "dead"}]
  /\ phase \in [Attempt -> {"idle", "gone", "ended"} \union Live]
  /\ votes \in [Branch -> {"-", "yes", "no", "readonly"}]
  /\ told \in [Attempt -> {"nothing", "committed", "aborted", "pending"}]
  /\ acks \in [Proc -> SUBSET Branch]
  /\ asks \in [Proc -> SUBSET Branch]
  /\ alarm \in BOOLEAN

\* Steps of databases change nothing here.
BranchesMove == (\E b \in Branch : BranchStep(b)) /\ UNCHANGED procVars

\* What a Commit record says: the attempt, and the resource managers whose branches it lists (C-I4).
Record(a, rms) == [attempt |-> a, rms |-> rms]
Lists(record, b) == record.attempt = b[1] /\ b[2] \in record.rms

-----------------------------------------------------------------------------
(* Processes. *)

\* The next incarnation, forced before use (ids.py). Rule NewIncarnation dropped: a dead one's number is used again.
MayStart(p) ==
  \/ up[p] = "unborn" /\ \A q \in Proc : q < p => up[q] # "unborn"
  \/ ~ Keeps("NewIncarnation") /\ up[p] = "dead"

StartProcess(p) ==
  /\ MayStart(p)
  /\ up' = [up EXCEPT ![p] = "up"]
  /\ phase' = [a \in Attempt |-> IF Owner(a) = p /\ phase[a] = "gone" THEN "idle" ELSE phase[a]]
  /\ UNCHANGED <<unit, evidence, msgs, votes, told, acks, asks, pass, alarm>>

\* All of these die. What they knew is lost; what they have sent is on its way. What was idle can never begin.
Die(ps) ==
  /\ up' = [p \in Proc |-> IF p \in ps THEN "dead" ELSE up[p]]
  /\ phase' = [a \in Attempt |-> IF Owner(a) \in ps THEN "gone" ELSE phase[a]]
  /\ votes' = [b \in Branch |-> IF Owner(b[1]) \in ps THEN "-" ELSE votes[b]]
  /\ acks' = [p \in Proc |-> IF p \in ps THEN {} ELSE acks[p]]
  /\ asks' = [p \in Proc |-> IF p \in ps THEN {} ELSE asks[p]]
  /\ pass' = [p \in Proc |-> IF p \in ps THEN [r \in RM |-> NoPass] ELSE pass[p]]
  /\ UNCHANGED <<unit, evidence, msgs, told, alarm>>

-----------------------------------------------------------------------------
(* The coordinator, up to the decision. *)

Participants(a) == {r \in RM : unit[<<a, r>>] # "idle"}

\* The branches begin, do their work, and are asked to prepare; those in `within` carry the decision instead.
BeginAttempt(a, rms, within) ==
  /\ up[Owner(a)] = "up"
  /\ phase[a] = "idle"
  /\ phase' = [phase EXCEPT ![a] = "preparing"]
  /\ unit' = [b \in Branch |-> IF b[1] = a /\ b[2] \in rms /\ unit[b] = "idle" THEN "working" ELSE unit[b]]
  /\ msgs' = msgs \union {<<"prepare", <<a, r>>>> : r \in rms \ within}
  /\ UNCHANGED <<evidence, up, votes, told, acks, asks, pass, alarm>>

\* A vote arrives, perhaps long after it was given.
TakeVote(b, vote) ==
  /\ phase[b[1]] = "preparing"
  /\ votes[b] = "-"
  /\ <<vote, b>> \in msgs
  /\ votes' = [votes EXCEPT ![b] = vote]
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, told, acks, asks, pass, alarm>>

\* Yes, all of them, and no decision otherwise (A9). Rule AllVoteYes dropped: those that have not said no.
MayCommit(a, within) ==
  /\ phase[a] = "preparing"
  /\ \A r \in Participants(a) \ within :
       IF Keeps("AllVoteYes") THEN votes[<<a, r>>] \in {"yes", "readonly"} ELSE votes[<<a, r>>] # "no"

\* The record lists exactly the branches that voted yes (C-I4).
RecordOf(a) == Record(a, {r \in RM : votes[<<a, r>>] = "yes"})

\* Before the decision the coordinator may always abort: a vote was no, or was lost, so that whether the branch is
\* prepared is not known (O16); its time is over; it is cancelled. Those that said no are told nothing (C-I2).
TellAbort(a) ==
  /\ phase' = [phase EXCEPT ![a] = "aborting"]
  /\ msgs' = msgs \union {<<"abort", <<a, r>>>> : r \in {s \in Participants(a) : votes[<<a, s>>] \notin {"no", "readonly"}}}

AbortAttempt(a) ==
  /\ phase[a] = "preparing"
  /\ TellAbort(a)
  /\ UNCHANGED <<unit, evidence, up, votes, told, acks, asks, pass, alarm>>

-----------------------------------------------------------------------------
(* The coordinator, after it. *)

\* The Commit record is durable: only now anybody is told (C-I1). The journals say when.
TellCommit(a) ==
  /\ phase' = [phase EXCEPT ![a] = "committing"]
  /\ msgs' = msgs \union {<<"commit", <<a, r>>>> : r \in RecordOf(a).rms}

\* One process asks a database to commit a branch, and has the answer. (Where the answer is lost it is CommitBranch.)
CommitAndAnswer(p, b) ==
  IF unit[b] \in {"prepared", "volatile"}
  THEN /\ unit' = [unit EXCEPT ![b] = "committed"]
       /\ evidence' = evidence \union {b}
       /\ acks' = [acks EXCEPT ![p] = @ \union {b}]
       /\ UNCHANGED asks
  ELSE /\ asks' = [asks EXCEPT ![p] = @ \union {b}]
       /\ UNCHANGED <<unit, evidence, acks>>

PhaseTwo(b) ==
  /\ phase[b[1]] = "committing"
  /\ votes[b] = "yes"
  /\ b \notin acks[Owner(b[1])]
  /\ b \notin asks[Owner(b[1])]
  /\ CommitAndAnswer(Owner(b[1]), b)
  /\ UNCHANGED <<msgs, up, phase, votes, told, pass, alarm>>

\* The caller is told, and the attempt leaves the list of the living; branches that did not answer are recovery's (O18).
Conclude(a) ==
  /\ phase[a] \in {"committing", "aborting"}
  /\ phase' = [phase EXCEPT ![a] = "ended"]
  /\ told' = [told EXCEPT ![a] = IF phase[a] = "committing" THEN "committed" ELSE "aborted"]
  /\ UNCHANGED <<unit, evidence, msgs, up, votes, acks, asks, pass, alarm>>

-----------------------------------------------------------------------------
(* Recovery: one pass over one database. Scan, then who is live, then the records: in this order, each a step of its   *)
(* own, with everything else in between.                                                                               *)

Order ==
  CASE ~ Keeps("ScanBeforeLive") -> <<"live", "records", "scan">>
    [] ~ Keeps("LiveBeforeRecords") -> <<"scan", "records", "live">>
    [] OTHER -> <<"scan", "live", "records">>

Turn(p, r, what) ==
  /\ p \in Recoverers
  /\ up[p] = "up"
  /\ pass[p][r].stage < 3
  /\ Order[pass[p][r].stage + 1] = what

\* Advance the pass, with what was learned; what follows from it is planned when all three are known.
Step(p, r, learned) ==
  LET known == [learned EXCEPT !.stage = @ + 1]
      open == known.found \ known.live
  IN pass' = [pass EXCEPT ![p][r] =
       IF known.stage < 3 THEN known
       ELSE [stage |-> 3, found |-> {}, live |-> {},
             commit |-> known.commit \ known.live, abort |-> open \ known.commit]]

\* Every prepared branch of this database, or none at all (O35).
Scan(p, r) ==
  /\ Turn(p, r, "scan")
  /\ Step(p, r, [pass[p][r] EXCEPT !.found = {a \in Attempt : unit[<<a, r>>] \in {"prepared", "volatile"}}])
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, asks, alarm>>

\* `living`: attempts of other processes that live, as the journal knows it. Its own that are at work are skipped too.
\* Rule SkipTheLiving dropped: nobody is.
LearnLive(p, r, living) ==
  /\ Turn(p, r, "live")
  /\ LET own == {a \in Attempt : Owner(a) = p /\ phase[a] \in Live}
         skipped == IF Keeps("SkipTheLiving") THEN living \union own ELSE {}
     IN Step(p, r, [pass[p][r] EXCEPT !.live = @ \union skipped])

\* `mine`: the Commit records that p has to see finished. `elsewhere`: attempts of which another process has one.
\* A record speaks only for the branches it lists (O58). Rule RecordSpeaksForItsOwn dropped: for all of the transaction.
LearnRecords(p, r, mine, elsewhere) ==
  /\ Turn(p, r, "records")
  /\ LET listed == {a \in Attempt : \E record \in mine : Lists(record, <<a, r>>)}
         spoken == IF Keeps("RecordSpeaksForItsOwn") \/ mine = {} THEN listed ELSE listed \union pass[p][r].found
     IN Step(p, r, [pass[p][r] EXCEPT !.commit = spoken, !.live = @ \union elsewhere])

\* A decided branch: committed, and the answer is there. Found or not: what is decided but was not found is asked too.
FinishCommit(p, r, a) ==
  /\ up[p] = "up"
  /\ a \in pass[p][r].commit
  /\ pass' = [pass EXCEPT ![p][r].commit = @ \ {a}]
  /\ IF <<a, r>> \in acks[p] THEN UNCHANGED <<unit, evidence, acks, asks>> ELSE CommitAndAnswer(p, <<a, r>>)
  /\ UNCHANGED <<msgs, up, phase, votes, told, alarm>>

\* The same, and the answer is lost: the next pass will ask again. The message may arrive at any time.
SendCommit(p, r, a) ==
  /\ up[p] = "up"
  /\ a \in pass[p][r].commit
  /\ pass' = [pass EXCEPT ![p][r].commit = @ \ {a}]
  /\ msgs' = msgs \union {<<"commit", <<a, r>>>>}
  /\ UNCHANGED <<unit, evidence, up, phase, votes, told, acks, asks, alarm>>

\* No record, and none can appear: aborted (O26, O32, O58).
FinishAbort(p, r, a) ==
  /\ up[p] = "up"
  /\ a \in pass[p][r].abort
  /\ pass' = [pass EXCEPT ![p][r].abort = @ \ {a}]
  /\ msgs' = msgs \union {<<"abort", <<a, r>>>>}
  /\ UNCHANGED <<unit, evidence, up, phase, votes, told, acks, asks, alarm>>

\* It may stop at any point; the next one begins with a scan again (O31, O39).
EndPass(p, r) ==
  /\ pass[p][r].stage = 3
  /\ \A a \in Attempt : <<a, r>> \notin asks[p]
  /\ pass' = [pass EXCEPT ![p][r] = NoPass]
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, asks, alarm>>

\* "Not found": the evidence row is there, so it was committed (O19).
FindEvidence(p, b) ==
  /\ b \in asks[p]
  /\ b \in evidence
  /\ asks' = [asks EXCEPT ![p] = @ \ {b}]
  /\ acks' = [acks EXCEPT ![p] = @ \union {b}]
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, pass, alarm>>

\* Neither the branch nor its evidence: somebody has rolled it back by hand. That is recorded for a person, and nobody
\* does such a thing here: it may never happen. Rule NotFoundIsAQuestion dropped: the evidence is not looked at.
Absent(b) == unit[b] # "prepared" /\ (b \in evidence => ~ Keeps("NotFoundIsAQuestion"))

\* `open`: the record has not ended until now. Evidence outlives its record and no longer: of a record that another pass
\* has ended, all branches having acknowledged, absent evidence proves nothing. Rule AlarmOnlyWhileOpen dropped: it is
\* not asked. (The code once did not ask. This specification found it.)
Conclusive(open) == Keeps("AlarmOnlyWhileOpen") => open

MissEvidenceAtOnce(p, b, open) ==
  /\ b \in asks[p]
  /\ Absent(b)
  /\ asks' = [asks EXCEPT ![p] = @ \ {b}]
  /\ alarm' = (alarm \/ Conclusive(open))
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, pass>>

\* Evidence goes in batches, at the end of a pass over its database. The journals say which nobody can ask for any more.
MayClean(p, r) ==
  /\ up[p] = "up"
  /\ pass[p][r].stage = 3
  /\ pass[p][r].commit = {}
  /\ \A a \in Attempt : <<a, r>> \notin asks[p]

DropEvidence(b) ==
  /\ b \in evidence
  /\ evidence' = evidence \ {b}
  /\ UNCHANGED <<unit, msgs, up, phase, votes, told, acks, asks, pass, alarm>>

-----------------------------------------------------------------------------
(* What must hold. *)

\* Nobody is called for nothing.
NoFalseAlarm == alarm = FALSE

\* Everywhere or nowhere: implied by what is refined, stated here since it is what all this is about.
AllOrNothing ==
  \A b1, b2 \in Branch : b1[1] = b2[1] => ~ (unit[b1] = "committed" /\ unit[b2] = "aborted")

\* The map to AtomicCommit: a branch whose vote is not durable is a working one.
AbstractUnit == [b \in Branch |-> IF unit[b] = "volatile" THEN "working" ELSE unit[b]]

\* Nothing stays in doubt: when the faults have ended, every branch comes to an end.
NothingInDoubt == \A b \in Branch : unit[b] # "prepared"
Settles == <>[]NothingInDoubt

=============================================================================
