"""Foundations that every other package stands on: errors, files, recipes, devices, progress.

Nothing here imports another package of Zhixing, and nothing here imports torch at module level.
"""
