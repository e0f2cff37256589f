"""Block files: what `Disk` fields hold, compressed, on disk.

A checkpoint writes the parts of new records into a file of its own and goes on using the files of those before it.
Files are immutable; what has become useless in one is left behind when its rest is written again.
"""

from warpstore.blocks.cache import BlockCache
from warpstore.blocks.reader import SUFFIX, BlockFile, BlockFiles, block_path
from warpstore.blocks.writer import BlockWriter, Placed

__all__ = ["SUFFIX", "BlockCache", "BlockFile", "BlockFiles", "BlockWriter", "Placed", "block_path"]
