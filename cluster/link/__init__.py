"""The peer link: one TCP connection per direction and peer, batched frames, a handshake before the first word."""
