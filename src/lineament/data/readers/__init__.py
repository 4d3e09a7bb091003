"""Readers of published data sets, one a file: each turns a set's own labels into samples."""
