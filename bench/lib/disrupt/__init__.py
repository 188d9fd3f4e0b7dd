"""What `bench/disrupt` is made of: connections of many kinds with checked bytes, the proxies under change, its cases and its page."""
