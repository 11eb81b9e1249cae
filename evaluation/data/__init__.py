"""Labelled photos in the layouts that they are published in."""

from evaluation.data.listing import DataError, DataSet, Entry
from evaluation.data.opening import open_data

__all__ = ["DataError", "DataSet", "Entry", "open_data"]
