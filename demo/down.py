"""Stops what run.py left running and removes it.

    demo/down.py [VERSION...]      default: all
"""

import sys

import cluster

for home in cluster.homes():
    if len(sys.argv) == 1 or home.name.split("-")[-1] in sys.argv[1:]:
        state = "stopped and removed" if cluster.remove(home) else "was not running; removed"
        print(f"{home.name}: {state}")
