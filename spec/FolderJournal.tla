---------------------------- MODULE FolderJournal ----------------------------
(***************************************************************************)
(* Commit with the journal in a folder (`journal/folder.py`): the          *)
(* processes of one machine share it. Each appends to a file of its own,   *)
(* under an OS lock that goes when its process dies, however it dies:      *)
(* whoever obtains the lock has proof of death.                            *)
(*                                                                         *)
(* What is written can be read by everybody at once; it survives the death *)
(* of its process, but a power cut only if it was forced (O59). So a dead  *)
(* process's records are copied into the reader's own file, and that is    *)
(* forced, before anything is done by them.                                *)
(*                                                                         *)
(* The transaction has an id, and its attempts are made one after the      *)
(* other: the id is claimed under an OS lock (C7), so the next attempt     *)
(* begins when the one before it has ended, or its process is dead.        *)
(*                                                                         *)
(* Left out: damage in the middle of a file (O41) and restored copies      *)
(* (O53), which are refused before anything is done.                       *)
(***************************************************************************)
EXTENDS Commit, TLC

CONSTANTS Mortal,      \* the processes that may die
          Interrupts,  \* whether callers are interrupted
          PowerCuts    \* how many power cuts there may be

VARIABLES written,     \* written[p]: the records in p's file, as everybody can read them
          forced,      \* forced[p]: those of them that survive a power cut
          lock,        \* lock[p]: who holds the lock of p's file; 0: nobody; Cleared: the file is gone
          queue,       \* <<p, record>>: handed to the journal by p, and not yet written
          cuts         \* how many power cuts there were

folderVars == <<written, forced, lock, queue, cuts>>
vars == <<unit, evidence, msgs, up, phase, votes, told, acks, asks, pass, alarm, written, forced, lock, queue, cuts>>

Cleared == 99

\* Records. A Commit is filed under its attempt, and so are an Abort and an End.
CommitOf(record) == [kind |-> "commit", attempt |-> record.attempt, rms |-> record.rms]
AbortOf(a) == [kind |-> "abort", attempt |-> a, rms |-> {}]
EndOf(a) == [kind |-> "end", attempt |-> a, rms |-> {}]

Commits(records) == {record \in records : record.kind = "commit"}
Unended(records) == {record \in Commits(records) : EndOf(record.attempt) \notin records}
HasCommit(records, a) == \E record \in Commits(records) : record.attempt = a

Init ==
  /\ CommitInit
  /\ written = [p \in Proc |-> {}]
  /\ forced = [p \in Proc |-> {}]
  /\ lock = [p \in Proc |-> 0]
  /\ queue = {}
  /\ cuts = 0

TypeOK ==
  /\ CommitTypeOK
  /\ \A p \in Proc : forced[p] \subseteq written[p]
  /\ lock \in [Proc -> Proc \union {0, Cleared}]

-----------------------------------------------------------------------------
(* Processes, and death. *)

Start(p) ==
  /\ StartProcess(p)
  /\ lock' = [lock EXCEPT ![p] = p]
  /\ UNCHANGED <<written, forced, queue, cuts>>

\* The locks of the dead are free, except of files that are gone.
Unlock(ps) == lock' = [p \in Proc |-> IF lock[p] \in ps THEN 0 ELSE lock[p]]

\* kill -9. What was written stays readable; what had not been written never will be.
Crash(p) ==
  /\ p \in Mortal
  /\ up[p] = "up"
  /\ Die({p})
  /\ Unlock({p})
  /\ queue' = {entry \in queue : entry[1] # p}
  /\ UNCHANGED <<written, forced, cuts>>

\* The machine stops: all processes die. Of what was not forced some may be there afterwards and some not; what is
\* there then is on the disk. The databases are elsewhere.
PowerCut(kept) ==
  /\ cuts < PowerCuts
  /\ cuts' = cuts + 1
  /\ \A p \in Proc : up[p] = "up" => p \in Mortal
  /\ kept \subseteq UNION {written[p] \ forced[p] : p \in Proc}
  /\ Die({p \in Proc : up[p] = "up"})
  /\ Unlock(Proc)
  /\ written' = [p \in Proc |-> forced[p] \union (written[p] \intersect kept)]
  /\ forced' = written'
  /\ queue' = {}

-----------------------------------------------------------------------------
(* The coordinator and its journal. *)

\* The transaction's id is free: no other attempt is at work, nor is it known to be committed (C7, O50).
Claimed(a) == \E other \in Attempt \ {a} : phase[other] \in Live
Known(p) == \E q \in Proc : Commits(written[q]) # {}
Begin(a, rms) ==
  /\ Keeps("ClaimTheId") => ~ Claimed(a) /\ ~ Known(Owner(a))
  /\ BeginAttempt(a, rms, {})
  /\ UNCHANGED folderVars

Decide(a) ==
  /\ MayCommit(a, {})
  /\ phase' = [phase EXCEPT ![a] = "deciding"]
  /\ queue' = queue \union {<<Owner(a), CommitOf(RecordOf(a))>>}
  /\ UNCHANGED <<unit, evidence, msgs, up, votes, told, acks, asks, pass, alarm, written, forced, lock, cuts>>

\* First writer wins (protocol/admission.py): a Commit is taken unless there is an Abort under its key, or another
\* Commit of the transaction. Rule AbortBarsCommit dropped: an Abort does not keep it out. An End is always taken.
Admitted(p, record) ==
  record.kind = "commit" =>
    /\ Commits(written[p]) = {}
    /\ Keeps("AbortBarsCommit") => AbortOf(record.attempt) \notin written[p]

Write(p, record) ==
  /\ <<p, record>> \in queue
  /\ up[p] = "up"
  /\ queue' = queue \ {<<p, record>>}
  /\ written' = IF Admitted(p, record) THEN [written EXCEPT ![p] = @ \union {record}] ELSE written
  /\ UNCHANGED <<forced, lock, cuts, commitVars>>

\* One force for all that wait. If it fails, its process dies (R5): that is Crash.
Force(p) ==
  /\ up[p] = "up"
  /\ forced[p] # written[p]
  /\ forced' = [forced EXCEPT ![p] = written[p]]
  /\ UNCHANGED <<written, lock, queue, cuts, commitVars>>

\* The record is durable: the decision. Rule ForceBeforeSend dropped: it is sent when it is written.
Durable(p) == IF Keeps("ForceBeforeSend") THEN forced[p] ELSE written[p]
Accepted(a) ==
  /\ phase[a] = "deciding"
  /\ HasCommit(Durable(Owner(a)), a)
  /\ TellCommit(a)
  /\ UNCHANGED <<unit, evidence, up, votes, told, acks, asks, pass, alarm, folderVars>>

\* The record was not taken: another one was first.
Refused(a) ==
  /\ phase[a] = "deciding"
  /\ ~ HasCommit(written[Owner(a)], a)
  /\ \A entry \in queue : entry[2].kind = "commit" => entry[2].attempt # a
  /\ TellAbort(a)
  /\ UNCHANGED <<unit, evidence, up, votes, told, acks, asks, pass, alarm, folderVars>>

\* The caller is interrupted while it waits (KeyboardInterrupt): the record may be written, or may be written later.
Interrupt(a) ==
  /\ Interrupts
  /\ phase[a] = "deciding"
  /\ phase' = [phase EXCEPT ![a] = "settling"]
  /\ UNCHANGED <<unit, evidence, msgs, up, votes, told, acks, asks, pass, alarm, folderVars>>

\* What was interrupted is settled by writing Abort under the same key, never assumed (O46). Refused: the Commit is
\* there. Taken: it never will be. Rule AbortSettles dropped: no Abort is written, and it is assumed lost.
Settle(a) ==
  LET p == Owner(a) IN
  /\ phase[a] = "settling"
  /\ IF Keeps("AbortSettles") /\ HasCommit(written[p], a)
     THEN /\ HasCommit(Durable(p), a)
          /\ TellCommit(a)
          /\ UNCHANGED written
     ELSE /\ written' = IF Keeps("AbortSettles") THEN [written EXCEPT ![p] = @ \union {AbortOf(a)}] ELSE written
          /\ TellAbort(a)
  /\ UNCHANGED <<unit, evidence, up, votes, told, acks, asks, pass, alarm, forced, lock, queue, cuts>>

\* Ends that p has handed over: to p itself they count already.
Noted(p) == {entry[2] : entry \in {one \in queue : one[1] = p /\ one[2].kind = "end"}}

\* Every branch has acknowledged: End, which is written when something else is, and is harmless to lose (O28). It is
\* known no longer which branches have.
\* Rule EndAfterAcks dropped: some have.
End(p, record) ==
  /\ up[p] = "up"
  /\ CommitOf(record) \in Unended(forced[p] \union Noted(p))
  /\ LET missing == {<<record.attempt, r>> : r \in record.rms} \ acks[p]
     IN IF Keeps("EndAfterAcks") THEN missing = {} ELSE TRUE
  /\ queue' = queue \union {<<p, EndOf(record.attempt)>>}
  /\ acks' = [acks EXCEPT ![p] = {b \in @ : b[1] # record.attempt}]
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, asks, pass, alarm, written, forced, lock, cuts>>

-----------------------------------------------------------------------------
(* Recovery. *)

\* Whose lock can be had is dead: his records are copied. Asked four times a second, and before every look. One step:
\* from his lock until his records are held, a process counts him as living, and what he left as held by another.
Inherit(p, q) ==
  /\ up[p] = "up"
  /\ up[q] # "unborn"
  /\ lock[q] = 0
  /\ lock' = [lock EXCEPT ![q] = p]
  /\ written' = [written EXCEPT ![p] = @ \union written[q]]
  /\ UNCHANGED <<forced, queue, cuts, commitVars>>

\* Whose lock is not ours, and whose file is still there, lives. Rule ProofOfDeath dropped: nobody but us does.
LookLive(p, r) ==
  LET living == {a \in Attempt : Owner(a) # p /\ lock[Owner(a)] \notin {p, Cleared}}
  IN /\ LearnLive(p, r, IF Keeps("ProofOfDeath") THEN living ELSE {})
     /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, asks, alarm, folderVars>>

\* Nothing is acted on before it is certainly on disk (O59). Rule CopyBeforeActing dropped: as it was read.
LookRecords(p, r) ==
  /\ Keeps("CopyBeforeActing") => forced[p] = written[p]
  /\ LET mine == Unended(written[p] \union Noted(p))
         others == UNION {Commits(written[q]) : q \in {q \in Proc \ {p} : lock[q] \in Proc \ {p}}}
     IN LearnRecords(p, r, {Record(c.attempt, c.rms) : c \in mine}, {c.attempt : c \in others \ written[p]})
  /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, asks, alarm, folderVars>>

\* Neither a branch nor its evidence. A death is proven here, so that nobody else has cleaned up for us.
MissEvidence(p, b) ==
  /\ MissEvidenceAtOnce(p, b, \E c \in Unended(written[p] \union Noted(p)) : c.attempt = b[1])
  /\ UNCHANGED folderVars

\* A dead process's file is removed when all of it is forced elsewhere. Rule ClearAfterForce dropped: when it is copied.
ClearAway(p, q) ==
  /\ p # q
  /\ up[p] = "up"
  /\ lock[q] = p
  /\ written[q] \subseteq (IF Keeps("ClearAfterForce") THEN forced[p] ELSE written[p])
  /\ lock' = [lock EXCEPT ![q] = Cleared]
  /\ written' = [written EXCEPT ![q] = {}]
  /\ forced' = [forced EXCEPT ![q] = {}]
  /\ UNCHANGED <<queue, cuts, commitVars>>

\* Evidence outlives its record, and goes only when the record's End is certainly on disk: a lost End would bring the
\* record back. Rule EvidenceOutlivesRecord dropped: when all branches have acknowledged. Rule EndForcedFirst dropped:
\* when End is written.
Clean(p, b) ==
  /\ MayClean(p, b[2])
  /\ phase[b[1]] \notin Live
  /\ lock[Owner(b[1])] \in {p, Cleared}
  /\ IF ~ Keeps("EvidenceOutlivesRecord") THEN b \in acks[p]
     ELSE \E q \in Proc : EndOf(b[1]) \in (IF Keeps("EndForcedFirst") THEN forced[q] ELSE written[q])
  /\ DropEvidence(b)
  /\ UNCHANGED folderVars

-----------------------------------------------------------------------------

Idle(action) == action /\ UNCHANGED folderVars

Records == {Record(a, rms) : a \in Attempt, rms \in SUBSET RM}

\* Sizes, for the .cfg files.
OneAttempt == {<<1, 1>>}
AttemptsOfTwo == {<<1, 1>>, <<2, 1>>}
AttemptsOfOne == {<<1, 1>>, <<1, 2>>}
All == {RM}
Symmetry == Permutations(RM)

AtCoordinator(a) ==
  \/ \E rms \in Parts : Begin(a, rms)
  \/ \E r \in RM : \/ Idle(PhaseTwo(<<a, r>>))
                   \/ \E vote \in Votes : Idle(TakeVote(<<a, r>>, vote))
  \/ Idle(AbortAttempt(a))
  \/ Decide(a) \/ Accepted(a) \/ Refused(a) \/ Interrupt(a) \/ Settle(a)
  \/ Idle(Conclude(a))

AtProcess(p) ==
  \/ Start(p) \/ Crash(p) \/ Force(p)
  \/ \E r \in RM : \/ Idle(Scan(p, r)) \/ LookLive(p, r) \/ LookRecords(p, r) \/ Idle(EndPass(p, r))
                   \/ \E a \in Attempt : \/ Idle(FinishCommit(p, r, a))
                                         \/ Idle(SendCommit(p, r, a))
                                         \/ Idle(FinishAbort(p, r, a))
  \/ \E b \in Branch : Idle(FindEvidence(p, b)) \/ MissEvidence(p, b) \/ Clean(p, b)
  \/ \E record \in Records : End(p, record)
  \/ \E q \in Proc : Inherit(p, q) \/ ClearAway(p, q)

Next ==
  \/ Idle(BranchesMove)
  \/ \E a \in Attempt : AtCoordinator(a)
  \/ \E p \in Proc : AtProcess(p)
  \/ \E entry \in queue : Write(entry[1], entry[2])
  \/ \E kept \in SUBSET UNION {written[p] : p \in Proc} : PowerCut(kept)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What it implements, and that it gets there. *)

\* A transaction is decided when its Commit record survives a power cut, in whosever file.
Decided == {a \in Attempt : \E p \in Proc : HasCommit(forced[p], a)}

Atomic == INSTANCE AtomicCommit WITH unit <- AbstractUnit, decided <- Decided, told <- told
Refines == Atomic!Spec

\* Whatever can be done for good is done in the end; nobody has to die, to be interrupted, to lose a vote or a branch.
Fairness ==
  /\ \A b \in Branch : WF_vars(Idle(VoteYes(b) /\ UNCHANGED procVars))
  /\ \A b \in Branch : WF_vars(Idle(AbortBranch(b) /\ UNCHANGED procVars))
  /\ \A p \in Proc : WF_vars(Start(p)) /\ WF_vars(Force(p)) /\ \A q \in Proc : WF_vars(Inherit(p, q))
  /\ \A a \in Attempt : WF_vars(Accepted(a)) /\ WF_vars(Refused(a)) /\ WF_vars(Settle(a)) /\ WF_vars(Idle(Conclude(a)))
  /\ \A a \in Attempt : WF_vars(Idle(AbortAttempt(a)))
  /\ WF_vars(\E entry \in queue : Write(entry[1], entry[2]))

Recovering ==
  \A p \in Proc, r \in RM :
    /\ WF_vars(Idle(Scan(p, r))) /\ WF_vars(LookLive(p, r)) /\ SF_vars(LookRecords(p, r))
    /\ WF_vars(Idle(EndPass(p, r)) /\ pass[p][r].commit = {} /\ pass[p][r].abort = {})
    /\ \A a \in Attempt : SF_vars(Idle(FinishCommit(p, r, a))) /\ SF_vars(Idle(FinishAbort(p, r, a)))

FairSpec == Spec /\ Fairness /\ Recovering

\* Without recovery something stays in doubt: that this fails shows that the property says something.
UnfairSpec == Spec /\ Fairness

=============================================================================
