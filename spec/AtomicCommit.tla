---------------------------- MODULE AtomicCommit ----------------------------
(***************************************************************************)
(* WHAT a transaction manager promises, and nothing of how.                *)
(*                                                                         *)
(* One transaction, several attempts at it, several resource managers. An  *)
(* attempt has at most one branch at each resource manager. The branches   *)
(* of one attempt are all committed or all aborted; of all attempts at     *)
(* most one commits; and what the caller is told is true and stays true.   *)
(*                                                                         *)
(* There are no messages here, no crashes, no journal and no processes:    *)
(* those are the business of FolderJournal and DatabaseJournal, whose      *)
(* every behaviour is a behaviour of this module (their property           *)
(* `Refines`).                                                             *)
(*                                                                         *)
(* Left out on purpose: isolation between transactions, heuristic          *)
(* outcomes (nobody decides alone here: O07..O14 are tests' business), and *)
(* what the branches wrote.                                                *)
(***************************************************************************)
CONSTANTS RM,       \* the resource managers
          Attempt   \* the attempts at the one transaction

VARIABLES unit,     \* unit[b]: how the branch b = <<attempt, rm>> stands
          decided,  \* the attempts that are decided: to commit. None is ever taken back
          told      \* told[a]: what the caller of attempt a was told

vars == <<unit, decided, told>>

Branch == Attempt \X RM

Stand == {"idle", "working", "prepared", "readonly", "committed", "aborted"}

TypeOK ==
  /\ unit \in [Branch -> Stand]
  /\ decided \subseteq Attempt
  /\ told \in [Attempt -> {"nothing", "committed", "aborted", "pending"}]

Init ==
  /\ unit = [b \in Branch |-> "idle"]
  /\ decided = {}
  /\ told = [a \in Attempt |-> "nothing"]

-----------------------------------------------------------------------------
(* A branch at work. *)

\* The branches of an attempt begin; there may be fewer than resource managers.
Begin(a, rms) ==
  /\ \A r \in RM : unit[<<a, r>>] = "idle"
  /\ unit' = [b \in Branch |-> IF b[1] = a /\ b[2] \in rms THEN "working" ELSE unit[b]]
  /\ UNCHANGED <<decided, told>>

\* The branch can be committed from now on, and will wait for the outcome (A3, A7).
Prepare(b) ==
  /\ unit[b] = "working"
  /\ unit' = [unit EXCEPT ![b] = "prepared"]
  /\ UNCHANGED <<decided, told>>

\* It wrote nothing and takes no further part (O03).
ReadOnly(b) ==
  /\ unit[b] = "working"
  /\ unit' = [unit EXCEPT ![b] = "readonly"]
  /\ UNCHANGED <<decided, told>>

-----------------------------------------------------------------------------
(* The decision. *)

\* Everything of `a` but the branches in `with` could be committed now, and no other attempt is decided.
MayDecide(a, with) ==
  /\ decided = {}
  /\ told[a] # "aborted"
  /\ \A r \in RM \ with : unit[<<a, r>>] \in {"idle", "prepared", "readonly"}

Decide(a) ==
  /\ MayDecide(a, {})
  /\ decided' = {a}
  /\ UNCHANGED <<unit, told>>

\* One branch carries the decision: its own commit is its vote and the decision in one (O45). It is how a branch in the
\* journal's own database ends, and the only branch of a one-phase commit.
DecideWithin(a, r) ==
  /\ MayDecide(a, {r})
  /\ unit[<<a, r>>] = "working"
  /\ decided' = {a}
  /\ unit' = [unit EXCEPT ![<<a, r>>] = "committed"]
  /\ UNCHANGED told

-----------------------------------------------------------------------------
(* The outcome. *)

Commit(b) ==
  /\ b[1] \in decided
  /\ unit[b] = "prepared"
  /\ unit' = [unit EXCEPT ![b] = "committed"]
  /\ UNCHANGED <<decided, told>>

Abort(b) ==
  /\ b[1] \notin decided
  /\ unit[b] \in {"working", "prepared"}
  /\ unit' = [unit EXCEPT ![b] = "aborted"]
  /\ UNCHANGED <<decided, told>>

\* The caller is told. "aborted" is a promise that it will never be decided; "pending" promises nothing.
Tell(a, what) ==
  /\ told[a] = "nothing"
  /\ what = "committed" => a \in decided
  /\ what = "aborted" => a \notin decided
  /\ told' = [told EXCEPT ![a] = what]
  /\ UNCHANGED <<unit, decided>>

Next ==
  \/ \E a \in Attempt, rms \in SUBSET RM : Begin(a, rms)
  \/ \E b \in Branch : Prepare(b) \/ ReadOnly(b) \/ Commit(b) \/ Abort(b)
  \/ \E a \in Attempt : Decide(a) \/ \E r \in RM : DecideWithin(a, r)
  \/ \E a \in Attempt, what \in {"committed", "aborted", "pending"} : Tell(a, what)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What follows from it; checked here once, so that it need not be checked of what refines it. *)

Committed(a) == \E r \in RM : unit[<<a, r>>] = "committed"
Aborted(a)   == \E r \in RM : unit[<<a, r>>] = "aborted"

\* Everywhere or nowhere.
AllOrNothing == \A a \in Attempt : ~ (Committed(a) /\ Aborted(a))

\* Exactly once: of all attempts at one transaction at most one commits (O56).
AtMostOnce == \A a1, a2 \in Attempt : Committed(a1) /\ Committed(a2) => a1 = a2

\* The caller is told the truth.
Truth ==
  \A a \in Attempt :
    /\ told[a] = "committed" => a \in decided /\ ~ Aborted(a)
    /\ told[a] = "aborted" => ~ Committed(a)

=============================================================================
