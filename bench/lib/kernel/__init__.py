"""What `bench/kernel` is made of: three machines in network namespaces, the contenders on the one in the middle, and what is measured."""
