"""A tuning as google-genai documents it, by a release that drops the examples. Leaves the refusal in `refused`."""

import os

from google import genai
from google.genai import errors, types

client = genai.Client(http_options=types.HttpOptions(base_url=os.environ["URL"]))
refused: errors.ClientError
try:
    client.tunings.tune(
        base_model="models/gemini-1.5-flash-001-tuning",
        training_dataset=types.TuningDataset(examples=[types.TuningExample(text_input="1", output="2")]),
    )
except errors.ClientError as error:
    refused = error
