"""llama.cpp's own llama-bench and llama-batched-bench, run on the host of an instance: from a plan to a record."""
