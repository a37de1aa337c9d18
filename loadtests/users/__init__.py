"""The users. Each request is named with its level, so that a report splits by consistency."""
