"""The client library: one set of methods over a cluster and over a file, with `await` and without."""
