"""CSV with a header: a column for the picture, ``caption`` and, where it is there, ``split``."""

from captioner.data.readers.formats import READERS, Entry, Format, Source, grouped
from captioner.data.readers.rows import csv_rows


@READERS.register("csv")
class CsvTable(Format):
    """``captions.csv``, ``captions.tsv`` or Kaggle's ``captions.txt``; rows of a picture are put together."""

    patterns = ("captions.csv", "captions.tsv", "captions.txt")
    split_lists = True

    def recognises(self, source: Source) -> bool:
        return not source.is_json

    def entries(self, source: Source) -> list[Entry]:
        return grouped(csv_rows(source.path, source.text, join=source.repair))
