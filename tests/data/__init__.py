"""Tests of zhixing.data."""
