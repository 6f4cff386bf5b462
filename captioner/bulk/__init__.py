"""Captions of more pictures than one machine has time for: the function that workers call, and a run on Ray Data."""

from captioner.bulk.batch import CaptionBatch, share
from captioner.bulk.columns import MAPS, maps_of, outcome_schema, pack_maps, spark_schema

__all__ = ["MAPS", "CaptionBatch", "maps_of", "outcome_schema", "pack_maps", "share", "spark_schema"]
