--------------------------- MODULE DatabaseJournal ---------------------------
(***************************************************************************)
(* Commit with the journal in a database (`journal/database.py`,           *)
(* `journal/statements.py`): the processes may be anywhere, and that one   *)
(* has died is only guessed, from the absence of signs of life. The guess  *)
(* may be wrong: a process that is taken for dead was only paused, wakes,  *)
(* and goes on with what it was doing, late. So here anybody may be taken  *)
(* over at any time, and a pause is a process that takes no step.          *)
(*                                                                         *)
(* Before anybody acts on the guess he becomes the keeper of the other's   *)
(* incarnation, a row of the table `incarnation`. Every INSERT of a Commit *)
(* record reads that row and holds it until it has ended (FOR SHARE): once *)
(* the keeper has changed, no Commit of that incarnation can appear any    *)
(* more, and "no record" means abort. The same goes for proof: absent      *)
(* evidence, and an Abort that was accepted, prove something only to who   *)
(* keeps himself (Journal.confirm), since the keeper finishes and cleans.  *)
(*                                                                         *)
(* A branch in the journal's own database (`Decider`) is not prepared: the *)
(* record is inserted in it, and its commit is the decision (O45).         *)
(*                                                                         *)
(* Left out: claims of ids, so attempts run at the same time, which is     *)
(* more than happens; results that are kept for a while.                   *)
(***************************************************************************)
EXTENDS Commit, TLC

CONSTANTS Mortal,      \* the processes that may die
          Decider,     \* the resource managers that are the journal's own database: {} or one
          Kept         \* whether a record stays when it has ended (the transaction has an id), or goes

VARIABLES records,     \* the rows of the table `record`
          keeper,      \* keeper[p]: who finishes the work of the incarnation p; p itself: it lives
          inserts,     \* INSERTs of Commit records on their way: [record, open]; open: it holds its incarnation's row
          verdict,     \* verdict[a]: what the database said to the Commit of a: "-", "accepted" or "refused"
          doubt,       \* doubt[p]: branches without evidence, of which p has not asked whether that proves anything
          decided      \* the attempts that are decided: a record goes, this stays

dbVars == <<records, keeper, inserts, verdict, doubt, decided>>
vars == <<unit, evidence, msgs, up, phase, votes, told, acks, asks, pass, alarm,
          records, keeper, inserts, verdict, doubt, decided>>

CommitRow(record) == [kind |-> "commit", attempt |-> record.attempt, rms |-> record.rms, ended |-> FALSE]
AbortRow(a) == [kind |-> "abort", attempt |-> a, rms |-> {}, ended |-> FALSE]

Commits == {row \in records : row.kind = "commit"}
Unended == {row \in Commits : ~ row.ended}
HasCommit(a) == \E row \in Commits : row.attempt = a
Lives(p) == keeper[p] = p

Init ==
  /\ CommitInit
  /\ records = {}
  /\ keeper = [p \in Proc |-> 0]
  /\ inserts = {}
  /\ verdict = [a \in Attempt |-> "-"]
  /\ doubt = [p \in Proc |-> {}]
  /\ decided = {}

TypeOK ==
  /\ CommitTypeOK
  /\ keeper \in [Proc -> Proc \union {0}]
  /\ verdict \in [Attempt -> {"-", "accepted", "refused"}]
  /\ doubt \in [Proc -> SUBSET Branch]

\* The primary key and the unique `once` (protocol/admission.py): of Commit(x, n) and Abort(x, n) one, of all Commits
\* of x one.
FirstWriterWins ==
  /\ \A row1, row2 \in records : row1.attempt = row2.attempt => row1 = row2
  /\ \A row1, row2 \in Commits : row1 = row2

-----------------------------------------------------------------------------
(* Processes, and the guess of their death. *)

Start(p) ==
  /\ StartProcess(p)
  /\ keeper' = [keeper EXCEPT ![p] = p]
  /\ UNCHANGED <<records, inserts, verdict, doubt, decided>>

\* It dies; an INSERT that it has sent may still arrive.
Crash(p) ==
  /\ p \in Mortal
  /\ up[p] = "up"
  /\ Die({p})
  /\ doubt' = [doubt EXCEPT ![p] = {}]
  /\ UNCHANGED <<records, keeper, inserts, verdict, decided>>

\* Taken for dead, rightly or not; or kept by somebody who was taken over himself. It waits for a decision that is being
\* written. Nobody takes his own number back. Rule ShareLock dropped: it does not wait.
TakeOver(p, q) ==
  /\ up[p] = "up"
  /\ p # q
  /\ keeper[q] \notin {0, p}
  /\ keeper[q] # q => keeper[keeper[q]] # keeper[q]
  /\ Keeps("ShareLock") => \A insert \in inserts : insert.open => Owner(insert.record.attempt) # q
  /\ keeper' = [keeper EXCEPT ![q] = p]
  /\ UNCHANGED <<records, inserts, verdict, doubt, decided, commitVars>>

-----------------------------------------------------------------------------
(* The decision. *)

Carries(a) == Decider \intersect Participants(a)

\* Attempts need not wait for one another here; but one that is known to be committed is not run again.
Begin(a, rms) ==
  /\ Commits = {}
  /\ BeginAttempt(a, rms, Decider)
  /\ UNCHANGED dbVars

Decide(a) ==
  /\ MayCommit(a, Carries(a))
  /\ phase' = [phase EXCEPT ![a] = "deciding"]
  /\ inserts' = inserts \union {[record |-> RecordOf(a), open |-> FALSE]}
  /\ UNCHANGED <<unit, evidence, msgs, up, votes, told, acks, asks, pass, alarm, records, keeper, verdict, doubt, decided>>

\* The INSERT arrives: it reads its incarnation's row, which must keep itself, and holds it.
\* Rule KeeperBars dropped: it does not look. Then a paused coordinator decides what its keeper has aborted (O54).
Open(insert) ==
  LET a == insert.record.attempt IN
  /\ insert \in inserts
  /\ ~ insert.open
  /\ Keeps("KeeperBars") => Lives(Owner(a))
  /\ inserts' = (inserts \ {insert}) \union {[insert EXCEPT !.open = TRUE]}
  /\ UNCHANGED <<records, keeper, verdict, doubt, decided, commitVars>>

\* The database is done with it. Rule AbortBarsCommit dropped: an Abort under its key does not keep it out; rule
\* OneCommit dropped: nor does a Commit of another attempt.
Admitted(record) ==
  /\ Keeps("AbortBarsCommit") => AbortRow(record.attempt) \notin records
  /\ Keeps("OneCommit") => Commits = {}
  /\ ~ HasCommit(record.attempt)

\* The branch that carries the record is committed with it, or rolled back with it.
Carry(a, accepted) ==
  /\ \A r \in Carries(a) : accepted => unit[<<a, r>>] = "working"
  /\ unit' = [b \in Branch |-> IF b[1] = a /\ b[2] \in Carries(a) /\ unit[b] = "working"
                               THEN IF accepted THEN "committed" ELSE "aborted"
                               ELSE unit[b]]

Land(insert) ==
  LET record == insert.record
      a == record.attempt
      isThere == \A r \in Carries(a) : unit[<<a, r>>] = "working"
      accepted == insert.open /\ isThere /\ Admitted(record)
  IN /\ insert \in inserts
     /\ insert.open \/ ~ Lives(Owner(a))
     /\ inserts' = inserts \ {insert}
     /\ Carry(a, accepted)
     /\ records' = IF accepted THEN records \union {CommitRow(record)} ELSE records
     /\ decided' = IF accepted THEN decided \union {a} ELSE decided
     /\ verdict' = [verdict EXCEPT ![a] = IF accepted THEN "accepted" ELSE "refused"]
     /\ UNCHANGED <<evidence, msgs, procVars, keeper, doubt>>

\* Its connection dies before: nothing of it stays.
Vanish(insert) ==
  /\ insert \in inserts
  /\ inserts' = inserts \ {insert}
  /\ Carry(insert.record.attempt, FALSE)
  /\ UNCHANGED <<evidence, msgs, procVars, records, keeper, verdict, doubt, decided>>

Accepted(a) ==
  /\ phase[a] = "deciding"
  /\ verdict[a] = "accepted"
  /\ TellCommit(a)
  /\ UNCHANGED <<unit, evidence, up, votes, told, acks, asks, pass, alarm, dbVars>>

Refused(a) ==
  /\ phase[a] = "deciding"
  /\ verdict[a] = "refused"
  /\ TellAbort(a)
  /\ UNCHANGED <<unit, evidence, up, votes, told, acks, asks, pass, alarm, dbVars>>

\* The reply is lost, or is not waited for: the record may be there, or may still arrive.
LoseReply(a) ==
  /\ phase[a] = "deciding"
  /\ phase' = [phase EXCEPT ![a] = "settling"]
  /\ UNCHANGED <<unit, evidence, msgs, up, votes, told, acks, asks, pass, alarm, dbVars>>

-----------------------------------------------------------------------------
(* A lost reply is settled by writing Abort under the same key, never assumed (O46).                                   *)

\* Refused: the Commit is there. Its own reply may be lost too; then it is written again.
AbortIsRefused(a) ==
  /\ phase[a] = "settling"
  /\ HasCommit(a)
  /\ TellCommit(a)
  /\ UNCHANGED <<unit, evidence, up, votes, told, acks, asks, pass, alarm, dbVars>>

WriteAbort(a) ==
  /\ Keeps("AbortSettles")
  /\ phase[a] = "settling"
  /\ ~ HasCommit(a)
  /\ AbortRow(a) \notin records
  /\ records' = records \union {AbortRow(a)}
  /\ UNCHANGED <<keeper, inserts, verdict, doubt, decided, commitVars>>

\* Accepted: the Commit is not there, and never was, if nobody else keeps this process's records. Rule ConfirmAbort
\* dropped: it is not asked. Rule AbortSettles dropped: a lost reply is read as a refusal.
AbortIsAccepted(a) ==
  /\ phase[a] = "settling"
  /\ Keeps("AbortSettles") => AbortRow(a) \in records
  /\ Keeps("ConfirmAbort") /\ Keeps("AbortSettles") => Lives(Owner(a))
  /\ TellAbort(a)
  /\ UNCHANGED <<unit, evidence, up, votes, told, acks, asks, pass, alarm, dbVars>>

\* It was taken for dead meanwhile: whoever took over may have finished the Commit and removed its record.
GiveUp(a) ==
  /\ phase[a] = "settling"
  /\ phase' = [phase EXCEPT ![a] = "ended"]
  /\ told' = [told EXCEPT ![a] = "pending"]
  /\ ~ Lives(Owner(a))
  /\ UNCHANGED <<unit, evidence, msgs, up, votes, acks, asks, pass, alarm, dbVars>>

\* An Abort exists to win a race. It is removed only when its incarnation is barred anyhow (O54).
\* Rule AbortStays dropped: at any time.
ForgetAbort(a) ==
  /\ AbortRow(a) \in records
  /\ phase[a] # "settling"
  /\ Keeps("AbortStays") => ~ Lives(Owner(a))
  /\ records' = records \ {AbortRow(a)}
  /\ UNCHANGED <<keeper, inserts, verdict, doubt, decided, commitVars>>

-----------------------------------------------------------------------------
(* Recovery. *)

\* Every branch has acknowledged. With an id the record stays, marked; else it goes. Rule EndAfterAcks dropped: some.
\* Rule CommittedIdsStay dropped: it goes in any case, and another attempt may commit (C7, C8).
End(p, row) ==
  /\ up[p] = "up"
  /\ row \in Unended
  /\ keeper[Owner(row.attempt)] = p
  /\ Owner(row.attempt) = p => phase[row.attempt] \notin Live
  /\ Keeps("EndAfterAcks") => {<<row.attempt, r>> : r \in row.rms} \subseteq acks[p]
  /\ records' = (records \ {row}) \union (IF Kept /\ Keeps("CommittedIdsStay") THEN {[row EXCEPT !.ended = TRUE]} ELSE {})
  /\ acks' = [acks EXCEPT ![p] = {b \in @ : b[1] # row.attempt}]
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, asks, pass, alarm, keeper, inserts, verdict, doubt, decided>>

\* Whoever keeps himself lives. Rule KeepBeforePresuming dropped: whoever has not been heard of is taken for dead,
\* though nobody is his keeper yet.
LookLive(p, r) ==
  /\ LearnLive(p, r, IF Keeps("KeepBeforePresuming") THEN {a \in Attempt : Owner(a) # p /\ Lives(Owner(a))} ELSE {})
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, asks, alarm, dbVars>>

LookRecords(p, r) ==
  /\ LET mine == {row \in Unended : keeper[Owner(row.attempt)] = p}
     IN LearnRecords(p, r, {Record(row.attempt, row.rms) : row \in mine}, {row.attempt : row \in Unended \ mine})
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, asks, alarm, dbVars>>

\* "Not found", and no evidence. That is no proof yet: it must be asked after the evidence was read whether nobody has
\* taken over until now. Rule ConfirmAbsence dropped: it is not asked.
MissEvidence(p, b) ==
  /\ b \in asks[p]
  /\ b \notin doubt[p]
  /\ Absent(b)
  /\ doubt' = [doubt EXCEPT ![p] = @ \union {b}]
  /\ UNCHANGED <<records, keeper, inserts, verdict, decided, commitVars>>

Confirm(p, b) ==
  /\ b \in doubt[p]
  /\ doubt' = [doubt EXCEPT ![p] = @ \ {b}]
  /\ asks' = [asks EXCEPT ![p] = @ \ {b}]
  /\ LET isKept == Lives(p) \/ ~ Keeps("ConfirmAbsence")
         isMine == Owner(b[1]) = p /\ phase[b[1]] = "committing"  \* its coordinator at work: recovery asks the journal
         open == isMine \/ \E row \in Unended : row.attempt = b[1] /\ keeper[Owner(b[1])] = p
     IN alarm' = (alarm \/ (isKept /\ Conclusive(open)))
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, pass, records, keeper, inserts, verdict, decided>>

\* Evidence outlives its record. Rule EvidenceOutlivesRecord dropped: when all branches have acknowledged.
Clean(p, b) ==
  /\ MayClean(p, b[2])
  /\ IF Owner(b[1]) = p THEN Lives(p) /\ phase[b[1]] \notin Live ELSE ~ Lives(Owner(b[1]))
  /\ IF Keeps("EvidenceOutlivesRecord") THEN \A row \in Unended : row.attempt # b[1] ELSE b \in acks[p]
  /\ DropEvidence(b)
  /\ UNCHANGED dbVars

-----------------------------------------------------------------------------

Idle(action) == action /\ UNCHANGED dbVars

AtCoordinator(a) ==
  \/ \E rms \in Parts : Begin(a, rms)
  \/ \E r \in RM : \/ Idle(PhaseTwo(<<a, r>>))
                   \/ \E vote \in Votes : Idle(TakeVote(<<a, r>>, vote))
  \/ Idle(AbortAttempt(a))
  \/ Decide(a) \/ Accepted(a) \/ Refused(a) \/ LoseReply(a)
  \/ AbortIsRefused(a) \/ WriteAbort(a) \/ AbortIsAccepted(a) \/ GiveUp(a) \/ ForgetAbort(a)
  \/ Idle(Conclude(a))

AtProcess(p) ==
  \/ Start(p) \/ Crash(p)
  \/ \E q \in Proc : TakeOver(p, q)
  \/ \E r \in RM : \/ Idle(Scan(p, r)) \/ LookLive(p, r) \/ LookRecords(p, r) \/ Idle(EndPass(p, r))
                   \/ \E a \in Attempt : \/ Idle(FinishCommit(p, r, a))
                                         \/ Idle(SendCommit(p, r, a))
                                         \/ Idle(FinishAbort(p, r, a))
  \/ \E b \in Branch : Idle(FindEvidence(p, b)) \/ MissEvidence(p, b) \/ Confirm(p, b) \/ Clean(p, b)
  \/ \E row \in records : End(p, row)

Next ==
  \/ Idle(BranchesMove)
  \/ \E a \in Attempt : AtCoordinator(a)
  \/ \E p \in Proc : AtProcess(p)
  \/ \E insert \in inserts : Open(insert) \/ Land(insert) \/ Vanish(insert)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What it implements, and that it gets there. *)

Atomic == INSTANCE AtomicCommit WITH unit <- AbstractUnit, decided <- decided, told <- told
Refines == Atomic!Spec

\* Sizes, for the .cfg files.
OneAttempt == {<<1, 1>>}
AttemptsOfTwo == {<<1, 1>>, <<2, 1>>}
All == {RM}
Symmetry == Permutations(RM)

=============================================================================
