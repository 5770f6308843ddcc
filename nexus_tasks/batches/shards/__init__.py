"""Batches in shards: Parquet at any address, on the workers of a Ray cluster, each shard a job of its own."""
