"""The shared truth: records in ZooKeeper, changed by compare-and-set only."""
