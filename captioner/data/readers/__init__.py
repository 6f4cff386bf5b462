"""Readers of captions: one stack for training, grounding and evaluation.

`read` gives the records of a data set for training and grounding. `read_annotations`, `read_results` and `name_as`
give references and hypotheses for evaluation. All of them use the formats in `READERS` and the same parsers, so that
they agree on ids, names of splits, duplicates, blank captions and paths of pictures.

A format is one module with one class, registered in `READERS`; see `captioner.data.readers.formats`. The formats:
Flickr8k's token file, COCO's captions, Karpathy's JSON, CSV, JSON lines, WebDataset shards, and folders of pictures
with sidecars; and questions about pictures in JSON lines.
"""

from captioner.data.readers import (  # noqa: F401  register
    coco,
    csv_table,
    flickr8k,
    json_lines,
    karpathy,
    picture_folder,
    questions,
    webdataset,
)
from captioner.data.readers.dataset import read
from captioner.data.readers.evaluation import Annotations, name_as, read_annotations, read_results
from captioner.data.readers.fields import Id
from captioner.data.readers.formats import READERS, Entry, LeftOutWarning, Source, caption_file

__all__ = [
    "READERS",
    "Annotations",
    "Entry",
    "Id",
    "LeftOutWarning",
    "Source",
    "caption_file",
    "name_as",
    "read",
    "read_annotations",
    "read_results",
]
