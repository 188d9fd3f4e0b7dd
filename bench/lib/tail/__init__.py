"""What `bench/compare --tail` is made of: the load generator, contenders with several listeners, rows, changes, tables and curves."""
