"""Media: fetched into a cache, probed, sampled and decoded. No torch, no SQL.

Untrusted bytes meet a decoder only in a child process (`media.sandbox`); this process loads none (decision 0010).
"""
