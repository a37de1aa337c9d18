"""How much is let in, so that what is let in is done in time."""
