"""Files that a run writes: results, a caption a row; figures; pages."""

from captioner.data.writers.figures import FigureFiles
from captioner.data.writers.formats import WRITERS
from captioner.data.writers.pages import PageFile
from captioner.data.writers.provenance import Provenance, digest_of
from captioner.data.writers.results import ResultsFile

__all__ = ["WRITERS", "FigureFiles", "PageFile", "Provenance", "ResultsFile", "digest_of"]
