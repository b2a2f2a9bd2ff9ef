"""What the benchmarks of a training step share: work, sides, floor and tables."""
