"""Tables in and out as Arrow, Parquet and JSON Lines. `Interchange` has the calls; `arrow_kinds` the table of types."""

from warpstore.interchange.batches import ArrowBatches
from warpstore.interchange.calls import Interchange

__all__ = ["ArrowBatches", "Interchange"]
