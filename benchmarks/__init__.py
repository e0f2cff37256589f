"""Benchmarks of warpstore beside its peers: ``python -m benchmarks NAME``.

Every contestant does the same work through the same loops (`benchmarks.drive`) on the same frozen inputs
(`benchmarks.workloads`), in the same run, one after the other within each trial (`benchmarks.measure`). Encoding and
decoding are inside the timed region and answers are checked. Nothing here is imported by warpstore.
"""
