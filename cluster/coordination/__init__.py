"""Carrying out requests: the only part of the protocol that waits, sends and looks at a clock."""
