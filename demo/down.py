"""Stops what run.py left running and removes it."""

import cluster

for home in cluster.homes():
    state = "stopped and removed" if cluster.remove(home) else "was not running; removed"
    print(f"{home.name}: {state}")
