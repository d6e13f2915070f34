"""Servers we know: MCP servers, their capabilities, their health, and how to reach them."""
