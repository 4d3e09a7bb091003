"""Readers of published data sets, one per file. Each converts the labels of a data set to samples."""
