"""One SQLite file that several processes of a host have open at once: the shared memory of kvstore.open().

Its atomic step is a transaction under SQLite's own locks: `SharedFile.write(work)` carries out a function of what the
file holds, and nobody else writes between its first look and its commit. What the entries and registers in it mean is
decided above.

- What `write` returned for is on disk. What it raised for is not there, but for CommitFailed, which says so.
- A row that has rotted is EntryDamaged, never an absence.
- A file that is not ours, or of a newer schema, is refused before anything in it is changed.

Reading order: schema (tables, settings and why), errors, places, rows, transaction, forks, file. DESIGN.md in storage/
says why there is no write-ahead log.
"""
