"""Checkpoints: one immutable file a shard, its records in key order, with an index to find one by its hash."""

from warpstore.checkpoint.job import CheckpointJob, CheckpointResult, ShardJob, TableJob
from warpstore.checkpoint.reader import Checkpoint, CheckpointTable
from warpstore.checkpoint.runner import CheckpointRunner, run_in_child
from warpstore.would_block import WOULD_BLOCK, WouldBlock

__all__ = [
    "WOULD_BLOCK",
    "Checkpoint",
    "CheckpointJob",
    "CheckpointResult",
    "CheckpointRunner",
    "CheckpointTable",
    "ShardJob",
    "TableJob",
    "WouldBlock",
    "run_in_child",
]
