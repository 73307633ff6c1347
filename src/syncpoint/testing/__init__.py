"""For tests, ours and yours: private database servers, and disks that fail."""
