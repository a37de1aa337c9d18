"""Anti-entropy: replicas compare hash trees, and bring together what differs by ordinary accepts."""
