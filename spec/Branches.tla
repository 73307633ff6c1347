------------------------------ MODULE Branches ------------------------------
(***************************************************************************)
(* The resource managers: databases that hold branches of one transaction. *)
(* What `protocol/participant.py` and the adapters in `resources/` do.     *)
(*                                                                         *)
(* The network is a set of messages that only grows. A message in it may   *)
(* be received now, much later, never, again, or before one sent earlier:  *)
(* so loss, delay, repetition and reordering need no actions of their own. *)
(* Replies that state what can never change again ("it is committed") are  *)
(* not put there: whoever would receive them looks at the fact itself.     *)
(* A vote is put there, since the branch may be gone when it arrives.      *)
(*                                                                         *)
(* A restart of a database ends its working branches and nothing else      *)
(* (A7). As every working branch may end alone at any time (`Lose`), a     *)
(* restart is several such steps, and needs no action either.              *)
(*                                                                         *)
(* A prepare that arrives again is answered no (A4) and changes nothing:   *)
(* to its coordinator that is a vote it may lose anyway. Left out.         *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets

CONSTANTS RM,       \* the resource managers
          Attempt,  \* attempts at the transaction: <<incarnation, counter>>, as in ids.py
          Votes,    \* the votes a branch may give: a subset of {"yes", "no", "readonly"}
          Dropped   \* the rules that are dropped: {} but in the checks that show why each is needed

VARIABLES unit,     \* unit[b]: the branch b = <<attempt, rm>> in its database
          evidence, \* the committed branches whose evidence row is still kept
          msgs      \* all messages ever sent

Branch == Attempt \X RM

\* The names of the rules, and the page each stands on, are in README.md.
Keeps(rule) == rule \notin Dropped

BranchesInit ==
  /\ unit = [b \in Branch |-> "idle"]
  /\ evidence = {}
  /\ msgs = {}

BranchesTypeOK ==
  /\ unit \in [Branch -> {"idle", "working", "volatile", "prepared", "readonly", "committed", "aborted"}]
  /\ evidence \subseteq Branch
  /\ msgs \subseteq {"prepare", "yes", "no", "readonly", "commit", "abort"} \X Branch

-----------------------------------------------------------------------------
(* Votes. *)

\* The vote is durable before it is sent (A3): the branch survives every restart from here on, locked and in doubt.
\* Rule VoteDurable dropped: it is sent while the branch can still be lost.
VoteYes(b) ==
  /\ <<"prepare", b>> \in msgs
  /\ unit[b] = "working"
  /\ "yes" \in Votes
  /\ unit' = [unit EXCEPT ![b] = IF Keeps("VoteDurable") THEN "prepared" ELSE "volatile"]
  /\ msgs' = msgs \union {<<"yes", b>>}
  /\ UNCHANGED evidence

\* It cannot be committed (A4, A5, O15, O21): after this nothing of it is left.
VoteNo(b) ==
  /\ <<"prepare", b>> \in msgs
  /\ unit[b] = "working"
  /\ "no" \in Votes
  /\ unit' = [unit EXCEPT ![b] = "aborted"]
  /\ msgs' = msgs \union {<<"no", b>>}
  /\ UNCHANGED evidence

\* It wrote nothing (O02, O03).
VoteReadOnly(b) ==
  /\ <<"prepare", b>> \in msgs
  /\ unit[b] = "working"
  /\ "readonly" \in Votes
  /\ unit' = [unit EXCEPT ![b] = "readonly"]
  /\ msgs' = msgs \union {<<"readonly", b>>}
  /\ UNCHANGED evidence

-----------------------------------------------------------------------------
(* Ends. *)

\* A working branch is lost: its database restarts, its connection dies, or its user ended it. A prepared one never is.
Lose(b) ==
  /\ unit[b] \in {"working", "volatile"}
  /\ unit' = [unit EXCEPT ![b] = "aborted"]
  /\ UNCHANGED <<evidence, msgs>>

\* Phase two, from its own session or from any other, by identifier. The evidence becomes visible with the rest of the
\* branch. For a branch that is not there nothing happens: "not found", which is a question (O19).
CommitBranch(b) ==
  /\ <<"commit", b>> \in msgs
  /\ unit[b] \in {"prepared", "volatile"}
  /\ unit' = [unit EXCEPT ![b] = "committed"]
  /\ evidence' = evidence \union {b}
  /\ UNCHANGED msgs

AbortBranch(b) ==
  /\ <<"abort", b>> \in msgs
  /\ unit[b] \in {"working", "volatile", "prepared"}
  /\ unit' = [unit EXCEPT ![b] = "aborted"]
  /\ UNCHANGED <<evidence, msgs>>

BranchStep(b) == VoteYes(b) \/ VoteNo(b) \/ VoteReadOnly(b) \/ Lose(b) \/ CommitBranch(b) \/ AbortBranch(b)

=============================================================================
