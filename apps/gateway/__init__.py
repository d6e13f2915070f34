"""The guarded road: carries calls from agents to native tools and upstream servers."""
