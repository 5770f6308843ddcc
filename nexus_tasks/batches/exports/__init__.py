"""Exports of a job: what came of each row, in the order of the input, as files of several formats."""
