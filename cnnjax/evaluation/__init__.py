"""Scores: errors of classifiers, average precision of detectors."""
