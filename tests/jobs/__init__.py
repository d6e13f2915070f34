"""Jobs: the row is the truth, whatever happens to brokers and workers."""
