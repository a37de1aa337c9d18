"""`make bench-cases`: the cases behind the headline, kvstore and etcd side by side, in one table with a plot each."""
