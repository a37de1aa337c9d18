"""One running node: node.py puts it together, view.py and measures.py tell of it."""
