"""The words of the Gemini API for what the core names: the one table from the core's fields to paths on this wire."""

from kastor.api.google.field_names import GENERATION_FIELDS
from kastor.api.google.model_names import tuned_model_name
from kastor.api.http.wire_names import WireNames

HYPERPARAMETERS = "tuningTask.hyperparameters"
EXAMPLES = "tuningTask.trainingData.examples.examples"
HOW_TO_SEND_EXAMPLES = (
    ". If you use google-genai: its releases from 1.47.0 on (and the Node "
    "SDK) do not send training_dataset to this API. Pass the examples as extra body: CreateTuningJobConfig("
    'http_options=HttpOptions(extra_body={"tuningTask": {"trainingData": {"examples": {"examples": '
    '[{"textInput": "1", "output": "2"}]}}}})), or use google-genai 1.46.0 or `kastor tune`'
)

GEMINI_NAMES = WireNames(
    fields={
        **GENERATION_FIELDS,
        "base_model": "baseModel",
        "model_id": "tunedModelId",
        "display_name": "displayName",
        "top_p": "topP",
        "top_k": "topK",
        "examples": EXAMPLES,
        "examples[].input": f"{EXAMPLES}[].textInput",
        "examples[].output": f"{EXAMPLES}[].output",
        "num_epochs": f"{HYPERPARAMETERS}.epochCount",
        "batch_size": f"{HYPERPARAMETERS}.batchSize",
        "learning_rate": f"{HYPERPARAMETERS}.learningRate",
        "learning_rate_multiplier": f"{HYPERPARAMETERS}.learningRateMultiplier",
        "email": "emailAddress",
    },
    hints={"examples": HOW_TO_SEND_EXAMPLES},
    tuned_model=tuned_model_name,
)
