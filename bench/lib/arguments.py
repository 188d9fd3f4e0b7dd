"""Arguments that several benchmarks take."""

import argparse


def words(known):
    """A list with commas, of these words."""

    def parse(given):
        found = given.split(",")
        if unknown := [word for word in found if word not in known]:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {','.join(unknown)}")
        return [word for word in known if word in found]

    return parse
