"""A tuned model as files for other programs: `python -m kastor.export`, a request on stdin, progress on stdout.

Every export is loaded again by the library that will read it, and compared with what the serving engine gives on the
model's golden rows, before it is renamed into place. `request` imports no torch; everything else does.
"""
