"""The demo family: tiny Llama models made from packages only, so that Empelt can be shown and tested offline."""
