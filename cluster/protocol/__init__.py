"""The protocol's pure core: no I/O, no clock, no chance. Read acceptor.py, quorum.py, proposer.py in this order."""
