"""Workloads: what clients do to a cluster while somebody watches whether it keeps its promises."""
