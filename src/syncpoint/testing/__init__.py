"""For tests, ours and yours: private database servers, disks that fail, and checkers of what happened."""
