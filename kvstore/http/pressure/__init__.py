"""What the node does when more is asked of it than it can do; the rule is in cluster/pressure."""
