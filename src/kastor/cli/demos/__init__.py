"""The demos: a base model learns something through the HTTP API, and is asked before and after.

Each begins with a base model and a server of its own, and ends with a comparison; what is shared is in `tuning`.
"""
