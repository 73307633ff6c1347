------------------------------ MODULE OnePhase ------------------------------
(***************************************************************************)
(* One-phase commit, and how a lost reply is settled (O20): a transaction  *)
(* that wrote at one database only, and needs no record, is committed      *)
(* there by one request, with its evidence in the same packet.             *)
(*                                                                         *)
(* The reply may be lost, and the request may arrive much later. It is     *)
(* settled by writing the same evidence key, as barring: who is first      *)
(* wins. If the branch is committed, its key is there; if not, the late    *)
(* request fails on ours. So the barring key stays for ever.               *)
(*                                                                         *)
(* With the journal in a database somebody else may have taken this        *)
(* process for dead, and cleaned its evidence up: then a missing key       *)
(* proves nothing, and the caller is told that it is not known.            *)
(***************************************************************************)
EXTENDS Naturals

CONSTANT Dropped        \* the rules that are dropped

VARIABLES request,      \* the request to commit: "none", "sent" or "done"; it may arrive at any time while it is sent
          unit,         \* the branch: "working", "committed" or "aborted"
          key,          \* the evidence key: "none", "committed" or "barred"
          phase,        \* the coordinator: "active", "waiting", "settling", "settled" or "over"
          answer,       \* what settling found: "none", "committed" or "absent"
          told,         \* what the caller was told
          keeps         \* whether nobody has taken this process over

vars == <<request, unit, key, phase, answer, told, keeps>>

Keeps(rule) == rule \notin Dropped

Init ==
  /\ request = "none"
  /\ unit = "working"
  /\ key = "none"
  /\ phase = "active"
  /\ answer = "none"
  /\ told = "nothing"
  /\ keeps = TRUE

TypeOK ==
  /\ request \in {"none", "sent", "done"}
  /\ unit \in {"working", "committed", "aborted"}
  /\ key \in {"none", "committed", "barred"}
  /\ phase \in {"active", "waiting", "settling", "settled", "over"}
  /\ answer \in {"none", "committed", "absent"}
  /\ told \in {"nothing", "committed", "aborted", "pending"}
  /\ keeps \in BOOLEAN

Send ==
  /\ phase = "active"
  /\ phase' = "waiting"
  /\ request' = "sent"
  /\ UNCHANGED <<unit, key, answer, told, keeps>>

\* The request arrives: branch and evidence key in one, or neither. Rule BarredCommitFails dropped: whatever the key is.
Arrive ==
  /\ request = "sent"
  /\ request' = "done"
  /\ IF unit = "working" /\ (key = "none" \/ ~ Keeps("BarredCommitFails"))
     THEN unit' = "committed" /\ key' = "committed"
     ELSE unit' = (IF unit = "working" THEN "aborted" ELSE unit) /\ key' = key
  /\ UNCHANGED <<phase, answer, told, keeps>>

\* The branch is lost before the request arrives: its database restarts, or its connection dies.
Lose ==
  /\ unit = "working"
  /\ unit' = "aborted"
  /\ UNCHANGED <<request, key, phase, answer, told, keeps>>

Answer ==
  /\ phase = "waiting"
  /\ request = "done"
  /\ phase' = "over"
  /\ told' = unit
  /\ unit # "working"
  /\ UNCHANGED <<request, unit, key, answer, keeps>>

LoseAnswer ==
  /\ phase = "waiting"
  /\ phase' = "settling"
  /\ UNCHANGED <<request, unit, key, answer, told, keeps>>

\* Write the same key. Rule SettleBars dropped: look whether it is there, and write nothing.
Settle ==
  /\ phase = "settling"
  /\ phase' = "settled"
  /\ answer' = IF key = "committed" THEN "committed" ELSE "absent"
  /\ key' = IF key = "none" /\ Keeps("SettleBars") THEN "barred" ELSE key
  /\ UNCHANGED <<request, unit, told, keeps>>

\* Absent means aborted only to who keeps himself, asked after the key was written. Rule ConfirmSettled dropped: not asked.
Conclude ==
  /\ phase = "settled"
  /\ phase' = "over"
  /\ told' = CASE answer = "committed" -> "committed"
               [] keeps \/ ~ Keeps("ConfirmSettled") -> "aborted"
               [] OTHER -> "pending"
  /\ UNCHANGED <<request, unit, key, answer, keeps>>

\* Somebody takes this process for dead; from then on he cleans its evidence up.
TakeOver ==
  /\ keeps
  /\ keeps' = FALSE
  /\ UNCHANGED <<request, unit, key, phase, answer, told>>

\* Evidence of a commit goes when its attempt is over (the low-water mark: what is unsettled is not over), or when its
\* process was taken over. Rule UnsettledIsUnfinished dropped: this process cleans what it has not settled.
Clean ==
  /\ key = "committed"
  /\ ~ keeps \/ phase = "over" \/ ~ Keeps("UnsettledIsUnfinished")
  /\ key' = "none"
  /\ UNCHANGED <<request, unit, phase, answer, told, keeps>>

\* A barring key stays for ever. Rule BarringStays dropped: it is cleaned up when the transaction is over.
CleanBarring ==
  /\ ~ Keeps("BarringStays")
  /\ key = "barred"
  /\ phase = "over"
  /\ key' = "none"
  /\ UNCHANGED <<request, unit, phase, answer, told, keeps>>

Next ==
  Send \/ Arrive \/ Lose \/ Answer \/ LoseAnswer \/ Settle \/ Conclude \/ TakeOver \/ Clean \/ CleanBarring

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* The same atomic commit, of one attempt at one resource manager: the branch carries its own decision. *)

Atomic == INSTANCE AtomicCommit WITH
  RM <- {"it"},
  Attempt <- {1},
  unit <- [b \in {1} \X {"it"} |-> unit],
  decided <- {a \in {1} : unit = "committed"},
  told <- [a \in {1} |-> told]

\* AtomicCommit begins with an idle branch, and here it works already: so its steps are implemented, not its beginning.
Refines == [][Atomic!Next]_<<unit, told>>

\* The caller is told the truth, and it stays true.
Truth == (told = "committed" => unit = "committed") /\ (told = "aborted" => unit # "committed")

=============================================================================
