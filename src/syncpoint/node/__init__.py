"""The node of a site: `syncpoint node`. The one authority that its managers and resource-manager processes share.

Managers keep their decisions in its journal (`journal="node://…"`), and reach resource managers through it
(`process://NAME`). It knows which incarnation of each resource manager counts, notices losses, has backups activated,
and tells a backup what to finish (B). Not for: the rules of taking over (protocol/takeover.py).
"""
