"""The store that is a cluster: calls, tries and answers over HTTP."""
