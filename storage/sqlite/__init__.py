"""The engine on a real disk: one folder, one SQLite database. ../DESIGN.md says why it is built like this."""
