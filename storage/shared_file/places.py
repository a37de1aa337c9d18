"""Where a shared file may lie: not on a network, whose file systems don't keep the locks of one host to themselves,
lose them, or grant them twice.

Only Linux says what lies behind a path in a way that can be read without more; elsewhere nothing is refused.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ncpfs|afs|coda|ceph|lustre|gpfs|beegfs|pvfs2|orangefs|glusterfs"
    r"|fuse\.(sshfs|glusterfs|ceph|ceph-fuse|s3fs|rclone|gcsfuse|goofys|davfs2?|moosefs|mfs|curlftpfs|seaweedfs)"
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


def network_of(path: str) -> str | None:
    """The network file system that this file or folder lies on; None where it lies on none, as far as can be told."""
    try:
        mounts = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return None
    return network_in(mounts, os.path.realpath(path))


def network_in(mounts: str, path: str) -> str | None:
    """The same, by the text of /proc/self/mountinfo; the last and longest of the mounts above the path counts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        mount, dash, about = line.partition(" - ")
        fields = mount.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = _ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), fields[4])
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):
            best, kind = point, about.split(" ")[0]
    return kind if _NETWORK.fullmatch(kind) else None
