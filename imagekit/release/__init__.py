"""The pipeline: render, measure, sign, append, record, verify."""
