"""What `bench/compare` and `bench/scale` are made of: processes, proxies, backends, load, rows, reports."""
