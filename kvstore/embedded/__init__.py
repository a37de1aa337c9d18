"""The store that is a file: several processes of one host share it, without a server. docs/embedded.md."""

from kvstore.embedded.opening import open, open_async

__all__ = ["open", "open_async"]
