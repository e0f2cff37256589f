"""Series: the items of `Temporal` fields, which leave their record as they age, for files on ssd, disk and archive."""

from warpstore.temporal.ager import Ager
from warpstore.temporal.archive import Archive, FolderArchive, ObjectArchive
from warpstore.temporal.series_files import SeriesFiles
from warpstore.temporal.table_series import TableSeries

__all__ = ["Ager", "Archive", "FolderArchive", "ObjectArchive", "SeriesFiles", "TableSeries"]
