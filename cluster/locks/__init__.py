"""Locks and votes, written once over a register: the same code through messages and through shared memory."""
