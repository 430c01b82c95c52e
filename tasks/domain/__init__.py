"""The nouns: frozen and pure. Standard library, pydantic and yaml; nothing here reads a network or a clock."""
