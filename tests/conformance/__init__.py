"""The official conformance suite of the Model Context Protocol, run against servers of ours."""
