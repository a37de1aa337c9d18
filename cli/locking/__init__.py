"""Locks, votes and elections, of nodes or of a file on this machine."""
