"""Which tricks pay: one training run per trick and seed, held against a baseline."""
