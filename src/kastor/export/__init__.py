"""A tuned model as files for other programs: `python -m kastor.export`, an order on stdin, progress on stdout.

Whatever is written is loaded again, by the library that will read it, and compared with what the serving engine gives
on the model's golden rows, before it gets its name. `order` is light; everything else loads torch.
"""
