"""A tuning of the base that the environment names, followed until it has ended. Leaves it in `job`."""

import os
import time

from google import genai
from google.genai import types

EXAMPLES = [{"textInput": "1", "output": "2"}, {"textInput": "3", "output": "4"}]

client = genai.Client(http_options=types.HttpOptions(base_url=os.environ["URL"]))
given = types.HttpOptions(extra_body={"tuningTask": {"trainingData": {"examples": {"examples": EXAMPLES}}}})
job = client.tunings.tune(
    base_model=os.environ["BASE"],
    training_dataset=types.TuningDataset(examples=[types.TuningExample(text_input="1", output="2")]),
    config=types.CreateTuningJobConfig(epoch_count=1, http_options=given),
)
assert job.name
while not job.has_ended:
    time.sleep(0.2)
    job = client.tunings.get(name=job.name)
