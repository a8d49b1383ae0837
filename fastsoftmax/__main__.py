"""``python -m fastsoftmax``: what is installed, and which kernels are in use."""

import argparse
import json

from fastsoftmax import __version__, show_config


def main() -> None:
    """Print the configuration, as text or as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m fastsoftmax", description="What is installed, and which kernels are in use."
    )
    parser.add_argument("--version", action="version", version=f"fastsoftmax {__version__}")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
    if parser.parse_args().json:
        print(json.dumps(show_config(mode="dicts"), indent=2))
    else:
        show_config()


if __name__ == "__main__":
    main()
