"""The run as processes on a machine: its folder, logs, lock, signals and resources."""
