"""Recipes, measured records and `python -m zoo.reproduce`."""
