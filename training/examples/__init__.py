"""Example tables: what the models learn from, as Parquet shards with checksums.

``tables`` turns tensors into Parquet and back, ``shards`` is a set of them with its manifest,
``identity`` names a set by what it was made from, ``partitions`` cuts the log by users, ``visits``
and ``lists`` are the two kinds of tables, ``build`` makes what is not there, ``making`` says where
the work is done (here, or over Ray Data), ``stream`` reads visits in batches.
"""
