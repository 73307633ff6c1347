------------------------------ MODULE Overtaken ------------------------------
(***************************************************************************)
(* FolderJournal from a later beginning, so that three processes fit: one  *)
(* has died after its decision, a second one has inherited its record, and *)
(* a third one lives. The second finishes the branches, in passes that may *)
(* be slow; the third cleans up what has ended.                            *)
(*                                                                         *)
(* It is here because it found a bug: a slow pass asked for a branch whose *)
(* record had ended meanwhile, found no evidence, and called a person.     *)
(***************************************************************************)
EXTENDS FolderJournal

Late ==
  /\ unit = [b \in Branch |-> "prepared"]
  /\ evidence = {}
  /\ msgs = {<<what, b>> : what \in {"prepare", "yes", "commit"}, b \in Branch}
  /\ up = [p \in Proc |-> IF p = 1 THEN "dead" ELSE "up"]
  /\ phase = [a \in Attempt |-> "gone"]
  /\ votes = [b \in Branch |-> "-"]
  /\ told = [a \in Attempt |-> "nothing"]
  /\ acks = [p \in Proc |-> {}]
  /\ asks = [p \in Proc |-> {}]
  /\ pass = [p \in Proc |-> [r \in RM |-> NoPass]]
  /\ alarm = FALSE
  /\ written = [p \in Proc |-> IF p = 2 THEN {[kind |-> "commit", attempt |-> <<1, 1>>, rms |-> RM]} ELSE {}]
  /\ forced = written
  /\ lock = [p \in Proc |-> IF p = 1 THEN Cleared ELSE p]
  /\ queue = {}
  /\ cuts = 0

LateSpec == Late /\ [][Next]_vars

=============================================================================
