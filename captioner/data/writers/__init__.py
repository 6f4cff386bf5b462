"""Files that a run writes: results, a caption a row; edits; figures; pages; sidecars; failures."""

from captioner.data.writers.beside import BesideFiles
from captioner.data.writers.edits import Edit, EditsFile
from captioner.data.writers.failures import FailedFolder, FailuresFile
from captioner.data.writers.figures import FigureFiles
from captioner.data.writers.formats import WRITERS
from captioner.data.writers.pages import PageFile
from captioner.data.writers.parquet import has_begun, open_results
from captioner.data.writers.provenance import Provenance, digest_of
from captioner.data.writers.results import ResultsFile

__all__ = [
    "WRITERS",
    "BesideFiles",
    "Edit",
    "EditsFile",
    "FailedFolder",
    "FailuresFile",
    "FigureFiles",
    "PageFile",
    "Provenance",
    "ResultsFile",
    "digest_of",
    "has_begun",
    "open_results",
]
