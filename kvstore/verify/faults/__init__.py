"""Faults for a cluster of real processes on this machine: each acts on its nodes and links, and is seen to act."""
