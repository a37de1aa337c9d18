"""`kvstore verify` where it makes its own history: against running nodes, or against a cluster of its own."""
