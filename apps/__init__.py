"""The apps of Gatehouse, one word of the field each; `docs/architecture.md` shows who may know whom."""
