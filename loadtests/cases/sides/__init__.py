"""The two that are measured: a cluster of kvstore, and etcd's, each fresh and in processes of its own."""
