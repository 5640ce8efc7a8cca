"""Configs of the experiments, one small file each."""
