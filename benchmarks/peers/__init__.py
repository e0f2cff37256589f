"""The contestants of the benchmarks: one module a peer; `benchmarks.peers.peer` has what they share."""
