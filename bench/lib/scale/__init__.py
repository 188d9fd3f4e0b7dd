"""What `bench/scale` is made of: the proxies with any number of listeners and backends, its cases, verdicts, page and plots."""
