"""Locks, votes and elections, and what they have in common."""
