"""Tests of swarmd; they mirror the packages."""
