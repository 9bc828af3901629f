"""The API group as msgspec Structs: no I/O, no async."""
