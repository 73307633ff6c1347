----------------------------- MODULE FolderTraces -----------------------------
(***************************************************************************)
(* Did the real code do what FolderJournal allows? Each trace is the       *)
(* history of one transaction, recorded at the ports of the production     *)
(* code (tests/spec/recorder.py); each of its events must be an action of  *)
(* FolderJournal, in that order, with what was seen: who voted what, which *)
(* branches a record lists, what a scan found, which records were there.   *)
(*                                                                         *)
(* Between two events the journal may take the steps that no port shows:   *)
(* a record is written, a file is forced, a dead process's file is         *)
(* inherited and cleared away. They are allowed just before an event that  *)
(* may need them. Everything else must have been recorded.                 *)
(*                                                                         *)
(* All traces of a batch are checked in one run: which one is a variable,  *)
(* chosen at the beginning. A trace is accepted if its end is reached; how *)
(* far each came is printed, and read by tests/spec/tlc.py.                *)
(***************************************************************************)
EXTENDS FolderJournal, Sequences, Batch

CONSTANT Tries   \* how many attempts one process may make

TracedAttempts == Proc \X (1..Tries)

VARIABLES trace,  \* which trace of the batch
          at      \* which of its events is next

traceVars == <<vars, trace, at>>

TraceInit ==
  /\ Init
  /\ trace \in DOMAIN Traces
  /\ at = 1

IsAtEnd == at > Len(Traces[trace])
Event == Traces[trace][at]
B == <<Event.a, Event.r>>
Branches(b) == UNCHANGED procVars

\* A working branch that ended: told so, or on its own.
Ended(b) == Idle(AbortBranch(b) /\ UNCHANGED procVars) \/ Idle(Lose(b) /\ UNCHANGED procVars)

Happens ==
  CASE Event.e = "start" -> Start(Event.p)
    [] Event.e = "die" -> Crash(Event.p)
    [] Event.e = "cut" -> \E kept \in SUBSET UNION {written[p] : p \in Proc} : PowerCut(kept)
    [] Event.e = "begin" -> Begin(Event.a, Event.names)
    [] Event.e = "voted" ->
         Idle((CASE Event.s = "yes" -> VoteYes(B) [] Event.s = "no" -> VoteNo(B) [] OTHER -> VoteReadOnly(B))
              /\ UNCHANGED procVars)
    [] Event.e = "vote" -> Idle(TakeVote(B, Event.s))
    [] Event.e = "decide" -> Decide(Event.a) /\ RecordOf(Event.a).rms = Event.names
    [] Event.e = "accepted" -> Accepted(Event.a)
    [] Event.e = "refused" -> Refused(Event.a)
    [] Event.e = "abort" -> Idle(AbortAttempt(Event.a))
    [] Event.e = "committed" -> Idle(CommitBranch(B) /\ UNCHANGED procVars)
    [] Event.e = "aborted" -> Ended(B)
    [] Event.e = "phase two" -> Idle(PhaseTwo(B)) /\ unit[B] = "prepared"
    [] Event.e = "not found" -> Idle(PhaseTwo(B)) /\ unit[B] # "prepared"
    [] Event.e = "told" -> Idle(Conclude(Event.a)) /\ told'[Event.a] = Event.s
    [] Event.e = "end" -> \E record \in Records : record.attempt = Event.a /\ End(Event.p, record)
    [] Event.e = "scan" -> Idle(Scan(Event.p, Event.r)) /\ pass'[Event.p][Event.r].found = Event.attempts
    [] Event.e = "looks" -> up[Event.p] = "up" /\ UNCHANGED vars
    [] Event.e = "looked" -> /\ LookRecords(Event.p, Event.r)
                             /\ {c.attempt : c \in Unended(written[Event.p] \union Noted(Event.p))} = Event.attempts
    [] Event.e = "finish commit" -> Idle(FinishCommit(Event.p, Event.r, Event.a)) /\ unit[B] = "prepared"
    [] Event.e = "missing" -> Idle(FinishCommit(Event.p, Event.r, Event.a)) /\ unit[B] # "prepared"
    [] Event.e = "send commit" -> Idle(SendCommit(Event.p, Event.r, Event.a))
    [] Event.e = "finish abort" -> Idle(FinishAbort(Event.p, Event.r, Event.a))
    [] Event.e = "evidence" -> Idle(FindEvidence(Event.p, B))
    [] Event.e = "clean" -> Clean(Event.p, B)
    [] Event.e = "end pass" -> IF pass[Event.p][Event.r] = NoPass THEN UNCHANGED vars
                               ELSE pass' = [pass EXCEPT ![Event.p][Event.r] = NoPass]
                                    /\ UNCHANGED <<unit, evidence, msgs, up, phase, votes, told, acks, asks, alarm, folderVars>>
    [] OTHER -> FALSE  \* an alarm: nobody decides alone in these runs

Next1 == Happens /\ at' = at + 1 /\ UNCHANGED trace

\* What no port shows, and when it may be needed.
Needs(what) == Event.e \in what
Silent ==
  /\ \/ Needs({"accepted", "die", "cut", "clean", "looked"}) /\ \E entry \in queue : Write(entry[1], entry[2])
     \/ Needs({"accepted", "cut", "clean"}) /\ \E p \in Proc : Force(p)
     \/ Needs({"looked"}) /\ \/ Force(Event.p)
                             \/ \E q \in Proc : Inherit(Event.p, q) \/ \E p \in Proc : ClearAway(p, q)
                             \/ LookLive(Event.p, Event.r)
     \/ Needs({"clean"}) /\ \/ \E p, q \in Proc : ClearAway(p, q)
                            \* Who died after the records were read is taken over before it is asked whose have ended.
                            \/ \E q \in Proc : Inherit(Event.p, q)
     \/ Needs({"end", "clean"}) /\ \E p \in Proc, r \in RM, a \in Attempt :
                                     <<a, r>> \in acks[p] /\ Idle(FinishCommit(p, r, a))
  /\ UNCHANGED <<trace, at>>

TraceNext == ~ IsAtEnd /\ (Next1 \/ Silent)

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

\* Said of every state that is reached; it constrains nothing.
Report == PrintT(<<"reached", trace, at>>)

=============================================================================
