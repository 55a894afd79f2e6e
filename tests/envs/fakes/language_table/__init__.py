"""Stands for google-research/language-table: its names, signatures and habits, with a point for a robot."""
