"""A replica that lost its memory: how it notices, and how it learns anew what it has to know before it votes."""
