"""One node's replica: the acceptor's decisions, the records in memory, the group commit below them."""
