"""Tests by app, and across apps: journeys, house, browser."""
